"""The results of all cases as they are written: as a document like nnU-Net's ``summary.json``, and as a table."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd

from ..text import printable
from ..versions import installed_version
from .metric_options import MetricOptions
from .metrics import METRICS, NEITHER, metrics_of, rule_for_one_empty
from .pairings import Pairing
from .tables import COLUMNS

_MEANS = (
    "mean: over the cases of a label, NaN left out (an infinite distance makes it infinite); foreground_mean: over the "
    "labels' means, where one that is NaN makes it NaN. As in nnU-Net."
)


def evaluation_json(pairing: Pairing, options: MetricOptions, results: dict[str, dict]) -> dict:
    """Give what ``evaluation.json`` holds.

    nnU-Net's ``metric_per_case``, ``mean`` and ``foreground_mean``, with the metrics of ``metrics.METRICS`` among
    nnU-Net's, and ``evaluation``, which says what was measured, and how.

    Args:
        results: of ``case_measurement.measure_files``, by case.
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
    measured = metrics_of(options.groups)
    settings = dict.fromkeys(setting for metric in measured.values() for setting in metric.settings)
    keys = [label.key for label in pairing.labels.measured]
    names = list(per_case[0]["metrics"][keys[0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a label that no case has: NaN
        means = {
            key: {name: float(np.nanmean([case["metrics"][key][name] for case in per_case])) for name in names}
            for key in keys
        }
    return {
        "foreground_mean": {name: float(np.mean([means[key][name] for key in keys])) for name in names},
        "mean": means,
        "metric_per_case": per_case,
        "evaluation": {
            "labels": {label.key: label.name for label in pairing.labels.measured},
            "ignore_label": pairing.labels.ignore,
            "training_cases": pairing.training_cases,
            "notes": list(pairing.notes),
            "definitions": {name: metric.definition for name, metric in measured.items()},
            **{setting.key: setting.chosen(options) for setting in settings},
            "empty": [NEITHER, rule_for_one_empty(options)],
            "means": _MEANS,
            "spacing": "mm, in the order of the array's axes, slowest first; axes of one voxel are not measured along",
            "reader": pairing.reader.__name__,
            "versions": versions(),
        },
    }


def evaluation_table(pairing: Pairing, options: MetricOptions, results: dict[str, dict]) -> pd.DataFrame:
    """Give the rows of ``evaluation.csv``."""
    rows = [
        (case, label.name, metric, results[case]["metrics"][label.key][metric])
        for case in pairing.cases
        for label in pairing.labels.measured
        for metric in metrics_of(options.groups)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def versions() -> dict[str, str]:
    """Give the versions of the packages that the values may depend on."""
    names = ("nnunetv2-mamba", "nnunetv2", "monai", "scipy", "scikit-learn", "numpy")
    return {name: installed_version(name) for name in names}


def format_means(tables: list[pd.DataFrame], options: MetricOptions) -> str:
    """Write the mean of every metric over the cases of each label; a case that several folds have counts once."""
    table = pd.concat(tables, ignore_index=True)
    cases = table.groupby(["case", "label", "metric"], sort=False)["value"].mean()
    means = cases.groupby(["label", "metric"], sort=False).mean().unstack()[list(metrics_of(options.groups))]
    means = means.rename(columns=lambda name: METRICS[name].column(options), index=printable)
    means = means.rename_axis(index=None, columns=None)
    return f"Means over {table['case'].nunique()} cases\n{means.to_string(float_format='%.4f')}"
