"""Few cases, odd orders, long lists: the ends of what is evaluated and compared."""

import numpy as np
import pandas as pd
import pytest

from nnunetv2_mamba.evaluation.case_results import format_means
from nnunetv2_mamba.evaluation.metric_options import GROUPS, MetricOptions
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.statistics import mean_intervals, smallest_p
from nnunetv2_mamba.evaluation.tables import COLUMNS, format_metrics, read_metrics


def table(cases, labels=("zebra", "ant"), value=0.5):
    rows = [(case, label, metric, value) for case in cases for label in labels for metric in METRICS]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_two_cases_have_an_interval_and_one_has_none():
    intervals = mean_intervals(np.array([[0.2, 0.6]]), np.random.default_rng(0))
    assert intervals.shape == (1, 2) and 0.2 <= intervals[0, 0] <= intervals[0, 1] <= 0.6
    assert np.isnan(mean_intervals(np.array([[0.2], [0.3]]), np.random.default_rng(0))).tolist() == [[True] * 2] * 2


def test_the_smallest_p_of_few_cases():
    assert [smallest_p(n) for n in (0, 1, 2, 6)] == [1, 1, 0.5, 1 / 32]


def test_means_are_listed_in_the_order_of_the_labels_with_their_units():
    options = MetricOptions(nsd_tolerance=2.5, groups=tuple(GROUPS))
    lines = format_means([table(["b", "a"], value=0.25), table(["c"], value=1.0)], options).splitlines()
    assert lines[0] == "Means over 3 cases"
    assert lines[1].split() == [word for metric in METRICS.values() for word in metric.column(options).split()]
    for heading in ("dice", "hd95 [mm]", "assd [mm]", "nsd at 2.5 mm", "error [ml]", "lesion_f1 at IoU 0.25", "ece"):
        assert heading in lines[1]
    assert "dice [" not in lines[1] and "hd95 at" not in lines[1]
    assert [line.split() for line in lines[2:]] == [[label, *["0.5000"] * len(METRICS)] for label in ("zebra", "ant")]


def test_a_case_of_two_folds_counts_once_in_the_means():
    folds = [table(["a", "b"], value=0.0), table(["a"], value=0.5)]
    assert format_means(folds, MetricOptions(groups=tuple(GROUPS))).splitlines()[-1].split() == [
        "ant",
        *["0.1250"] * len(METRICS),
    ]  # (0.25 + 0) / 2


@pytest.mark.parametrize(("number", "rest"), [(2, ""), (10, ""), (11, " and 1 more"), (13, " and 3 more")])
def test_long_lists_are_cut_after_ten(tmp_path, number, rest):
    folds = [tmp_path / f"fold_{i}" / "validation" for i in range(2)]
    names = [f"case_{i:02d}" for i in range(number)]
    for folder in folds:
        folder.mkdir(parents=True)
        (folder / "evaluation.csv").write_text(format_metrics(table(names)))
    listed = ", ".join(names[:10])
    with pytest.raises(ValueError, match=f"more than one value for case {listed}{rest}; a case belongs in one fold"):
        read_metrics(tmp_path)
