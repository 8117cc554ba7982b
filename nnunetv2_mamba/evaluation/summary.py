"""The results of all cases, as nnU-Net's ``summary.json`` has them, as ours, and as a table."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import pandas as pd

from ..text import printable
from .catalog import METRICS, Metric
from .folders import Pairing
from .metrics import NEITHER, Options
from .tables import COLUMNS

_MEANS = (
    "mean: over the cases of a label, NaN left out (an infinite distance makes it infinite); foreground_mean: over the "
    "labels' means, where one that is NaN makes it NaN. As in nnU-Net."
)


def summarize(pairing: Pairing, options: Options, results: dict[str, dict]) -> dict:
    """What ``evaluation.json`` holds.

    nnU-Net's ``metric_per_case``, ``mean`` and ``foreground_mean``, with the metrics of ``catalog.METRICS`` among
    nnU-Net's, and ``evaluation``, which says what was measured, and how.

    Args:
        results: of ``cases.measure_files``, by case.
    """
    per_case = [
        {
            "case": case,
            "reference_file": str(reference),
            "prediction_file": str(prediction),
            **results[case],
        }
        for case, (reference, prediction) in pairing.cases.items()
    ]
    keys = [label.key for label in pairing.labels.measured]
    names = list(per_case[0]["metrics"][keys[0]])
    means = {key: {name: _nanmean([case["metrics"][key][name] for case in per_case]) for name in names} for key in keys}
    return {
        "foreground_mean": {name: float(np.mean([means[key][name] for key in keys])) for name in names},
        "mean": means,
        "metric_per_case": per_case,
        "evaluation": {
            "labels": {label.key: label.name for label in pairing.labels.measured},
            "ignore_label": pairing.labels.ignore,
            "training_cases": pairing.training_cases,
            "notes": list(pairing.notes),
            "definitions": {name: metric.definition for name, metric in METRICS.items()},
            "nsd_tolerance_mm": options.nsd_tolerance,
            "empty": [NEITHER, options.one_empty],
            "means": _MEANS,
            "spacing": "mm, in the order of the array's axes, slowest first; axes of one voxel are not measured along",
            "reader": pairing.reader.__name__,
            "versions": versions(),
        },
    }


def to_table(pairing: Pairing, results: dict[str, dict]) -> pd.DataFrame:
    """The rows of ``evaluation.csv``."""
    rows = [
        (case, label.name, metric, results[case]["metrics"][label.key][metric])
        for case in pairing.cases
        for label in pairing.labels.measured
        for metric in METRICS
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def versions() -> dict[str, str]:
    """Of the packages that the values may depend on."""
    return {
        name: installed_version(name, "not installed")
        for name in ("nnunetv2-mamba", "nnunetv2", "monai", "scipy", "numpy")
    }


def installed_version(package: str, otherwise: str) -> str:
    """Its version, or ``otherwise`` where there is none: a package that is run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def _nanmean(values: list[float]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a label that no case has: NaN
        return float(np.nanmean(values))


def format_means(tables: list[pd.DataFrame], options: Options) -> str:
    """Lines of text: the mean of every metric over the cases of each label; one that several folds have counts once."""
    table = pd.concat(tables, ignore_index=True)
    cases = table.groupby(["case", "label", "metric"], sort=False)["value"].mean()
    means = cases.groupby(["label", "metric"], sort=False).mean().unstack()[list(METRICS)]
    means = means.rename(columns=lambda name: _column(METRICS[name], options), index=printable)
    means = means.rename_axis(index=None, columns=None)
    return f"Means over {table['case'].nunique()} cases\n{means.to_string(float_format='%.4f')}"


def _column(metric: Metric, options: Options) -> str:
    if metric.unit:
        return f"{metric.name} [{metric.unit}]"
    tolerance = f" at {options.nsd_tolerance:g} mm" if "nsd_tolerance_mm" in metric.settings else ""
    return f"{metric.name}{tolerance}"
