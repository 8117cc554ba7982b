"""Comparisons of tables whose outcome is known."""

import json

import numpy as np
import pandas as pd
import pytest
from made_up_models import LABELS, table_of

from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.comparison import MEAN


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 199)


def with_values(table, values, metric="dice", label="Anterior"):
    """The table with these values of the first cases."""
    table = table.copy()
    rows = table.index[(table["metric"] == metric) & (table["label"] == label)][: len(values)]
    table.loc[rows, "value"] = values
    return table


def by_name(item):
    return {result.name: result for result in item.results}


def test_a_real_difference_is_found_in_every_metric_and_structure():
    comparison = compare_tables(
        [("worse", table_of(0, 1)), ("better", table_of(0.03, 2)), ("equal", table_of(0.03, 2))]
    )
    assert [(item.metric, item.structure) for item in comparison.structures] == [
        (metric, structure) for metric in ("dice", "hd95", "nsd") for structure in (MEAN, *LABELS)
    ]
    for item in comparison.structures:
        against_better, against_equal, same = item.pairs
        assert against_better.significant and against_better.better == "better"
        assert against_better.wins + against_better.losses == 12 and against_better.losses > 9
        assert against_better.rank_biserial < -0.7  # also where lower is better: it speaks for the second
        assert (against_better.difference > 0) == (item.metric == "hd95")
        assert against_better.low < against_better.difference < against_better.high
        assert (same.p, same.ties, same.difference, same.low, same.high) == (1, 12, 0, 0, 0)
        assert against_equal.p == against_better.p
        ranks = by_name(item)
        assert ranks["better"].rank == ranks["equal"].rank == 1 and ranks["worse"].rank == 3
        assert ranks["better"].low < ranks["better"].mean < ranks["better"].high
    assert not comparison.notes


def test_mean_over_structures_is_taken_within_cases():
    tables = [("A", table_of(0, 1)), ("B", table_of(0, 2))]
    mean, *single = compare_tables(tables, ["dice"]).structures
    assert mean.values["A"].to_numpy() == pytest.approx(sum(item.values["A"] for item in single).to_numpy() / 2)
    assert mean.results[0].mean == pytest.approx(np.mean([item.results[0].mean for item in single]))


def test_one_structure_has_no_mean_beside_it():
    tables = [("A", table_of(0, 1, labels=("whole",))), ("B", table_of(0, 2, labels=("whole",)))]
    assert [item.structure for item in compare_tables(tables, ["dice"]).structures] == ["whole"]


def test_holm_families():
    """All pairs on the mean; all pairs on all structures."""
    tables = [(name, table_of(0.002 * i, i)) for i, name in enumerate("ABC")]
    mean, *single = compare_tables(tables, ["dice"]).structures
    for family in ([mean], single):
        pairs = [pair for item in family for pair in item.pairs]
        assert [pair.p_holm for pair in pairs] == pytest.approx(statistics.holm([pair.p for pair in pairs]))
    assert len([pair for item in single for pair in item.pairs]) == 6


def test_permuted_models_do_not_differ():
    """Values swapped between two models at random in each case: no family-wise significance, p-values spread out."""
    labels = tuple(f"structure {i}" for i in range(60))
    first, second = table_of(0, 1, labels=labels), table_of(0.03, 2, labels=labels)
    swap = np.random.default_rng(4).random(len(first)) < 0.5
    first["value"], second["value"] = (
        first["value"].where(swap, second["value"]),
        second["value"].where(swap, first["value"]),
    )
    single = compare_tables([("A", first), ("B", second)], ["dice"]).structures[1:]
    p_values = np.array([item.pairs[0].p for item in single])
    assert (p_values <= 0.05).mean() < 0.15
    assert 0.35 < p_values.mean() < 0.65
    assert not any(item.pairs[0].significant for item in single)


def test_infinite_distances_are_the_worst_and_counted():
    failing = with_values(table_of(0.03, 1), [np.inf, np.inf], "hd95")
    other = with_values(table_of(0, 2), [np.inf], "hd95")
    mean, anterior, posterior = compare_tables([("failing", failing), ("other", other)], ["hd95"]).structures
    finite = pd.concat([failing, other]).query("metric == 'hd95' and label == 'Anterior' and value < inf")["value"]
    assert anterior.values["failing"].iloc[:2].to_numpy() == pytest.approx(2 * finite.max())
    assert [result.failures for result in anterior.results] == [2, 1]
    assert [result.failures for result in mean.results] == [2, 1]
    assert [result.failures for result in posterior.results] == [0, 0]
    pair = anterior.pairs[0]
    assert pair.ties == 1  # both fail in the first case
    assert pair.losses >= 1  # the second, where only the first model fails


def test_a_structure_that_no_case_has_is_left_out_and_said():
    tables = [(name, with_values(table_of(0, i), [np.nan] * 12)) for i, name in enumerate("AB")]
    comparison = compare_tables(tables, ["dice"])
    assert [item.structure for item in comparison.structures] == ["Posterior"]
    assert comparison.notes == ("Anterior is in no image of any model, nor in a reference: left out of dice.",)


@pytest.mark.parametrize("metric", ["hd95", "assd"])
def test_what_is_in_no_reference_must_not_be_predicted(metric):
    """One model finds it in every case, the other rightly in none: all cases speak against the first."""
    tables = [
        (name, with_values(table_of(0, 1), [value] * 12, metric)) for name, value in (("A", np.inf), ("B", np.nan))
    ]
    comparison = compare_tables(tables, [metric])
    mean, anterior, _ = comparison.structures
    assert not comparison.notes and anterior.structure == "Anterior"
    assert anterior.values.to_numpy().tolist() == [[1.0, 0.0]] * 12  # no distance is finite: 1 mm
    assert [result.failures for result in anterior.results] == [12, 0]
    for pair in (anterior.pairs[0], mean.pairs[0]):
        assert (pair.wins, pair.ties, pair.losses, pair.better) == (0, 0, 12, "B")
        assert pair.p == pytest.approx(2 / 2**12)


def test_what_every_model_misses_everywhere_counts_too():
    tables = [(name, with_values(table_of(0, 1), [np.inf] * 12, "hd95")) for name in "AB"]
    anterior = compare_tables(tables, ["hd95"]).structures[1]
    assert anterior.values.to_numpy().tolist() == [[1.0, 1.0]] * 12
    assert [result.failures for result in anterior.results] == [12, 12] and anterior.pairs[0].ties == 12


def test_undefined_values():
    """Both lack the structure: left out. Only one predicts what is not there: the other one is right."""
    first = with_values(table_of(0, 1), [np.nan, np.nan, 0.0])
    second = with_values(table_of(0, 2), [np.nan, 0.0, np.nan])
    mean, anterior, _ = compare_tables([("A", first), ("B", second)], ["dice"]).structures
    assert anterior.left_out == 1 and "case_00" not in anterior.values.index
    assert anterior.values.loc["case_01"].tolist() == [1, 0]
    assert anterior.values.loc["case_02"].tolist() == [0, 1]
    posterior = first.query("case == 'case_00' and label == 'Posterior' and metric == 'dice'")["value"].item()
    assert mean.values.loc["case_00", "A"] == pytest.approx(posterior)
    assert mean.left_out == 0


def test_missing_cases_and_structures_are_listed():
    short = table_of(0, 1).query("case not in ['case_03', 'case_07']")
    other = table_of(0, 2).query("label != 'Posterior'")
    with pytest.raises(ValueError) as error:
        compare_tables([("short", short), ("full", table_of(0, 3)), ("other", other)], ["dice"])
    assert "short lacks dice of case case_03, case case_07;" in str(error.value)
    assert "other lacks dice of structure Posterior" in str(error.value)
    assert "full" not in str(error.value)


def test_a_single_missing_value_is_no_undefined_value():
    table = table_of(0, 1)
    with pytest.raises(ValueError, match="A lacks dice of case_00 / Anterior"):
        compare_tables([("A", table.iloc[1:]), ("B", table)], ["dice"])


def test_a_case_twice_is_refused():
    table = table_of(0, 1)
    with pytest.raises(ValueError, match="A has more than one dice for case_00"):
        compare_tables([("A", pd.concat([table, table.iloc[:1]])), ("B", table)], ["dice"])


@pytest.mark.parametrize(
    ("names", "metrics", "message"),
    [
        (["A"], ["dice"], "at least two models"),
        (["A", "A"], ["dice"], "at least two models"),
        (["A", "B"], ["Dice"], "no metric Dice; there are dice, iou"),
        (["A", "B"], [], "no metric given"),
    ],
)
def test_what_cannot_be_compared(names, metrics, message):
    with pytest.raises(ValueError, match=message):
        compare_tables([(name, table_of()) for name in names], metrics)


def test_a_seed_is_not_below_0():
    with pytest.raises(ValueError, match="--seed must be 0 or more, got -1"):
        compare_tables([(name, table_of()) for name in "AB"], ["dice"], seed=-1)


def test_too_few_cases_are_said():
    comparison = compare_tables([("A", table_of(0, 1, cases=5)), ("B", table_of(0.1, 2, cases=5))], ["dice"])
    assert comparison.notes[0].startswith("5 cases cannot show a significant difference (mean over structures;")
    assert "at least 0.062" in comparison.notes[0] and "at least 0.12" in comparison.notes[1]
    enough = compare_tables([("A", table_of(0, 1, cases=7)), ("B", table_of(0.1, 2, cases=7))], ["dice"])
    assert not enough.notes and enough.structures[0].pairs[0].significant
    nowhere = [(name, with_values(table_of(0, i, cases=6), [np.nan] * 6)) for i, name in enumerate("AB")]
    assert [note.split()[:2] for note in compare_tables(nowhere, ["dice"]).notes] == [["Anterior", "is"]]  # one test


def test_repetitions_are_averaged_within_cases():
    """Two seeds of a model are not twice as many cases."""
    seeds = [table_of(0, 1), table_of(0, 2)]
    comparison = compare_tables([("A", seeds[0]), ("B", table_of(0, 3)), ("A", seeds[1])], ["dice"])
    assert comparison.repetitions == {"A": 2, "B": 1}
    anterior = comparison.structures[1]
    assert anterior.values.shape == (12, 2)
    expected = sum(table.query("metric == 'dice' and label == 'Anterior'")["value"].to_numpy() for table in seeds) / 2
    assert anterior.values["A"].to_numpy() == pytest.approx(expected)


def test_the_seed_decides_the_intervals_and_metrics_do_not_disturb_each_other():
    tables = [("A", table_of(0, 1)), ("B", table_of(0, 2))]
    first, again = compare_tables(tables, ["dice", "nsd"], 5), compare_tables(tables, ["nsd"], 5)
    assert [item.results for item in first.of("nsd")] == [item.results for item in again.of("nsd")]
    assert first.structures[0].results != compare_tables(tables, ["dice"], 6).structures[0].results


def test_outputs_are_plain_and_complete():
    comparison = compare_tables([("A", table_of(0, 1, cases=1)), ("B", table_of(0, 2, cases=1))], ["dice"])
    data = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert data["structures"][0]["results"][0]["low"] is None
    assert data["structures"][0]["pairs"][0]["significant"] is False
    values = comparison.values()
    assert list(values.columns) == ["result", "metric", "structure", "case", "value"]
    assert len(values) == 2 * 3 and values["value"].notna().all()
