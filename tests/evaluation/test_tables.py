"""The tidy table: what is written is read again, and nothing that is missing or there twice passes."""

import math

import pandas as pd
import pytest

from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.tables import COLUMNS, format_metrics, read_metrics


def table_of(cases, labels=("hippocampus", "NA"), value=0.1 + 0.2):
    rows = [(case, label, metric, value) for case in cases for label in labels for metric in METRICS]
    return pd.DataFrame(rows, columns=COLUMNS)


def write(folder, cases, **options):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "evaluation.csv"
    file.write_text(format_metrics(table_of(cases, **options)))
    return file


def test_what_was_written_is_read(tmp_path):
    """Names that look like numbers, missing values or lists; values to the last bit."""
    table = table_of(["001", "1e3", "nan", 'a "b", c'])
    table.loc[:3, "value"] = [math.nan, math.inf, 1 / 3, 0.0]
    (tmp_path / "evaluation.csv").write_text(format_metrics(table))
    for path in (tmp_path, tmp_path / "evaluation.csv", str(tmp_path)):
        read = read_metrics(path)
        assert tuple(read.columns) == (*COLUMNS, "fold") and set(read["fold"]) == {""}
        assert read[["case", "label", "metric"]].values.tolist() == table[["case", "label", "metric"]].values.tolist()
        pd.testing.assert_series_equal(read["value"], table["value"], check_exact=True)


def test_folds_are_joined(tmp_path):
    write(tmp_path / "fold_0/validation", ["a", "b"])
    write(tmp_path / "fold_1/validation", ["c"])
    (tmp_path / "fold_2").mkdir()  # being trained
    assert read_metrics(tmp_path)["case"].unique().tolist() == ["a", "b", "c"]
    assert read_metrics(tmp_path)["fold"].unique().tolist() == ["fold_0", "fold_1"]
    assert read_metrics(tmp_path / "fold_1")["case"].unique().tolist() == ["c"]


def test_a_case_in_two_folds(tmp_path):
    write(tmp_path / "fold_0/validation", ["a", "b"])
    write(tmp_path / "fold_1/validation", ["b"])
    with pytest.raises(ValueError, match="more than one value for case b;"):
        read_metrics(tmp_path)


def test_the_fold_of_all_cases_counts_alone_only(tmp_path):
    write(tmp_path / "fold_all/validation", ["a", "b"])
    assert read_metrics(tmp_path)["case"].unique().tolist() == ["a", "b"]
    write(tmp_path / "fold_0/validation", ["b"], value=0.5)
    table = read_metrics(tmp_path)
    assert table["case"].unique().tolist() == ["b"] and set(table["value"]) == {0.5}
    (tmp_path / "fold_all/validation/evaluation.csv").unlink()
    assert read_metrics(tmp_path)["case"].unique().tolist() == ["b"]


def test_only_the_folds_that_are_asked_for(tmp_path):
    for fold, case in enumerate("abc"):
        write(tmp_path / f"fold_{fold}/validation", [case])
    (tmp_path / "fold_3/validation").mkdir(parents=True)  # not evaluated, and not asked for
    table = read_metrics(tmp_path, {"fold_0", "fold_2"})
    assert table["case"].unique().tolist() == ["a", "c"] and table["fold"].unique().tolist() == ["fold_0", "fold_2"]


def test_a_fold_that_is_not_evaluated(tmp_path):
    write(tmp_path / "fold_0/validation", ["a"])
    (tmp_path / "fold_1/validation").mkdir(parents=True)
    with pytest.raises(ValueError, match="has no fold_1/validation/evaluation.csv; .* nnunetv2_mamba evaluate /"):
        read_metrics(tmp_path)


def test_folds_with_other_labels(tmp_path):
    write(tmp_path / "fold_0/validation", ["a"], labels=["x", "y"])
    write(tmp_path / "fold_1/validation", ["b"], labels=["x"])
    with pytest.raises(ValueError, match=r"no value for b / y / \w+, .* same options"):
        read_metrics(tmp_path)


def test_no_table(tmp_path):
    with pytest.raises(ValueError, match="nnunetv2_mamba evaluate REF_DIR"):
        read_metrics(tmp_path)
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        read_metrics(tmp_path / "nothing")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "case,label,metric,value\n",
        "case,label,value\na,b,1\n",
        "case,label,metric,value\na,b,dice,high\n",
        "x\n\0\n",
    ],
)
def test_another_file(tmp_path, text):
    file = tmp_path / "evaluation.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match="evaluation.csv .*with evaluate"):
        read_metrics(tmp_path)
