"""The metrics, an entry for each. Tables, statistics, reports, help texts and the documentation follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..text import joined_by_and
from . import lesion_metrics, mask_metrics, probability_metrics, volume_metrics
from .metric import ENTERED, Metric
from .metric_options import MetricOptions

if TYPE_CHECKING:
    from .mask_pair import MaskPair

_FILES = (mask_metrics, volume_metrics, lesion_metrics, probability_metrics)  # further ones last, as in ``metric``
METRICS: dict[str, Metric] = {
    name: metric for file in _FILES for name, metric in ENTERED.items() if metric.function.__module__ == file.__name__
}
NEITHER = "in neither image: every metric is NaN and left out of the means; 1 would reward a label's absence"
DEFAULT_METRICS = ("dice", "hd95", "nsd")  # of a comparison


def metrics_of(groups: tuple[str, ...] = ()) -> dict[str, Metric]:
    """Give the metrics that are always measured and those of some groups, by name."""
    return {name: metric for name, metric in METRICS.items() if metric.group in ("", *groups)}


def measure_masks(pair: MaskPair, options: MetricOptions) -> dict[str, float]:
    """Compute the metrics that the options ask for of a pair of masks."""
    return {name: metric.value(pair, options) for name, metric in metrics_of(options.groups).items()}


def rule_for_one_empty(options: MetricOptions) -> str:
    """Say which values a label gets that is in one image only."""
    words = {
        "distance": {"inf": "infinite", "diagonal": "the diagonal of the image in mm"}[options.empty_distance],
        "function": "as defined",
    }
    names: dict[str, list[str]] = {}
    for name, metric in metrics_of(options.groups).items():
        value = words[metric.one_empty] if isinstance(metric.one_empty, str) else f"{metric.one_empty:g}"
        names.setdefault(value, []).append(name)
    rules = [f"{joined_by_and(own)} {'are' if own[1:] else 'is'} {value}" for value, own in names.items()]
    return f"in one image only: {', '.join(rules)}"
