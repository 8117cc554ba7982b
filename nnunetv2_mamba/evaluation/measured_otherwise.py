"""What a user has measured in another way than somebody else would, who must not write over it."""

from __future__ import annotations

from pathlib import Path

from ..files import read_optional_json
from .metric_options import MetricOptions
from .metrics import METRICS
from .tables import CSV, JSON, JSON_BYTES


def measured_otherwise(folder: Path, options: MetricOptions) -> list[str]:
    """Name the metrics of a folder's table that an evaluation with these options would lose.

    They are in none of the options' groups, or ``evaluation.json`` records another setting, such as a tolerance. Empty
    where there is no table, or no record that can be read: ``evaluate`` has not written them.
    """
    if not (folder / CSV).is_file():
        return []
    try:
        record = read_optional_json(folder / JSON, JSON_BYTES).get("evaluation")
    except ValueError:
        return []
    if not isinstance(record, dict) or not isinstance(record.get("definitions"), dict):
        return []
    return [name for name in record["definitions"] if name in METRICS and _differs(name, record, options)]


def _differs(name: str, record: dict, options: MetricOptions) -> bool:
    metric = METRICS[name]
    settings = {setting.key: setting.chosen(options) for setting in metric.settings}
    return metric.group not in ("", *options.groups) or any(
        key in record and record[key] != chosen for key, chosen in settings.items()
    )
