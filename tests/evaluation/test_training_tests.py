"""Comparisons of tables with folds and seeds: which test is made, with which values, and what is refused."""

import json

import numpy as np
import pytest
from made_up_models import LABELS, table_of

from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.training_statistics import over_folds, over_seeds


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 99)


def with_folds(table, folds, only=None):
    """Every so-manieth case is in a fold, as in ``made_up_models``; ``only``: folds that were trained."""
    numbers = table["case"].str[-2:].astype(int) % folds
    table = table.assign(fold=[f"fold_{number}" for number in numbers])
    return table if only is None else table[table["fold"].isin(only)]


def tables_of(folds, seeds, gain=0.02, only=None, labels=("whole",)):
    """Two models; later seeds are of the folds ``only``."""
    return [
        (name, with_folds(table_of(gain * model, 10 * model + seed, labels=labels), folds, only if seed else None))
        for model, name in enumerate("AB")
        for seed in range(seeds)
    ]


def mean_of(table, metric="dice"):
    """Means of the folds."""
    return table[table["metric"] == metric].groupby("fold")["value"].mean().to_numpy().copy()


def first_pair(tables, metrics=("dice",)):
    return compare_tables(tables, metrics).structures[0].pairs[0]


@pytest.mark.parametrize("metric", ["dice", "hd95"])
def test_over_folds(metric):
    tables = tables_of(4, 1)
    pair = first_pair(tables, [metric])
    expected = over_folds(mean_of(tables[0][1], metric) - mean_of(tables[1][1], metric))
    test = pair.trainings
    assert (test.over, test.n_folds, test.df, test.better) == ("folds", 4, 3, "B")
    assert (test.difference, test.low, test.high, test.p) == pytest.approx(tuple(map(float, expected[:4])))
    assert test.difference == pytest.approx(pair.difference)  # the folds have the same number of cases


def test_over_seeds_of_one_fold():
    tables = tables_of(1, 3)
    test = first_pair(tables).trainings
    blocks = [
        np.stack([table.query("metric == 'dice'").groupby("case")["value"].mean() for _, table in own], axis=1)
        for own in (tables[:3], tables[3:])
    ]
    expected = over_seeds([tuple(blocks)])
    assert (test.over, test.n_folds) == ("seeds", 1)
    assert (test.difference, test.p, test.df) == pytest.approx(
        tuple(map(float, (expected.mean, expected.p, expected.df)))
    )


def test_more_seeds_of_one_fold():
    """Seeds 1 and 2 of fold 0 only: averaged within its cases; a floor between seeds and one between folds."""
    tables = tables_of(4, 3, only=["fold_0"])
    comparison = compare_tables(tables, ["dice"])
    item = comparison.structures[0]
    of_models = []
    for own in (tables[:3], tables[3:]):
        folds = mean_of(own[0][1])
        folds[0] = np.mean([mean_of(table)[0] for _, table in own])
        of_models.append(folds)
    expected = over_folds(of_models[0] - of_models[1])
    test = item.pairs[0].trainings
    assert (test.over, test.n_folds) == ("folds", 4)
    assert (test.difference, test.p) == pytest.approx((float(expected.mean), float(expected.p)))
    assert comparison.repetitions == {"A": 3, "B": 3} and comparison.trainings == {"A": 6, "B": 6}
    assert item.noise.all_seeds.df == 4 and item.noise.all_folds.df == 3
    assert item.values["A"].mean() == pytest.approx(of_models[0].mean()) and len(item.values) == 12


@pytest.mark.parametrize(("folds", "seeds", "over"), [(2, 1, "folds"), (2, 2, "seeds"), (3, 2, "folds")])
def test_two_folds_are_tested_over_seeds_where_there_are_some(folds, seeds, over):
    test = first_pair(tables_of(folds, seeds)).trainings
    assert (test.over, test.n_folds) == (over, folds)


def test_folds_of_a_single_case_are_not_tested_over_seeds():
    """How much cases vary cannot be told from one."""
    tables = [
        (name, table.assign(value=table["value"].mask((table["fold"] == "fold_1") & (table["case"] != "case_01"))))
        for name, table in tables_of(2, 2)
    ]
    test = first_pair(tables).trainings
    assert (test.over, test.n_folds, test.df) == ("folds", 2, 1) and 0 < test.p < 1


def test_single_trainings_are_not_tested():
    one, three = tables_of(1, 1), tables_of(1, 3)
    for tables in (one, [one[0], *three[3:]]):
        item = compare_tables(tables, ["dice"]).structures[0]
        assert item.pairs[0].trainings is None
        assert item.exceeds(item.pairs[0]) in (None, True)


def test_predictions_are_compared_over_seeds_too():
    tables = [(name, table.drop(columns="fold")) for name, table in tables_of(1, 2)]
    assert first_pair(tables).trainings.over == "seeds"


def test_other_folds_are_noted():
    tables = [("A", with_folds(table_of(0, 1), 3)), ("B", with_folds(table_of(0, 2), 4)), ("C", table_of(0, 3))]
    comparison = compare_tables(tables, ["dice"])
    assert all(pair.trainings is None for pair in comparison.structures[0].pairs)
    assert comparison.notes == (
        "A and B: the cases of their folds differ, so they are compared over cases only, not over trainings.",
    )


def test_a_training_that_is_given_twice_is_noted():
    """Fold 1 of the second seed is a copy; NaN is the same as NaN. The same values of two models are none of one."""
    tables = tables_of(2, 2)
    first = tables[0][1]
    first.loc[first["case"] == "case_01", "value"] = np.nan
    copied = tables[1][1]["fold"] == "fold_1"
    copy = tables[1][1].assign(value=tables[1][1]["value"].mask(copied, first["value"]))
    assert not compare_tables([*tables, ("C", first)], ["dice", "hd95"]).notes
    (note,) = compare_tables([tables[0], ("A", copy), *tables[2:]], ["dice", "hd95"]).notes
    assert note.startswith("A: repetitions 1 and 2 have the same values in every case of fold_1. If they are one ")


def test_a_fold_that_lacks_cases_in_a_seed_is_refused():
    tables = tables_of(4, 2, only=["fold_0", "fold_1"])
    damaged = tables[1][1].query("case != 'case_05'")
    with pytest.raises(ValueError, match=r"only: A \(repetition 2\) lacks dice of case case_05$"):
        compare_tables([tables[0], ("A", damaged), *tables[2:]], ["dice"])


def test_a_fold_that_no_seed_has_is_refused():
    tables = tables_of(4, 2, only=["fold_0"])
    tables[0] = ("A", tables[0][1].query("fold != 'fold_3'"))
    with pytest.raises(ValueError, match="lacks dice of case case_03, case case_07, case case_11"):
        compare_tables(tables, ["dice"])


def test_what_was_not_trained_is_no_rightly_empty_structure():
    """A structure that is in no reference of fold 1: not the best value for a seed that has no fold 1."""
    tables = tables_of(4, 2, only=["fold_0"], labels=LABELS)
    changed = []
    for number, (name, table) in enumerate(tables):
        empty = (table["label"] == "Anterior") & (table["fold"] == "fold_1")
        value = 0.0 if number == 0 else np.nan  # one model predicts it there
        changed.append((name, table.assign(value=table["value"].mask(empty, value))))
    values = compare_tables(changed, ["dice"]).structures[1].values.loc[["case_01", "case_05"]]
    assert values.to_numpy().tolist() == [[0, 1]] * 2


def test_a_structure_that_some_folds_lack_is_tested_over_the_others():
    tables = [
        (name, table.assign(value=table["value"].mask((table["label"] == "Anterior") & (table["fold"] == "fold_2"))))
        for name, table in tables_of(4, 1, labels=LABELS)
    ]
    mean, anterior, posterior = (item.pairs[0].trainings for item in compare_tables(tables, ["dice"]).structures)
    assert (mean.n_folds, anterior.n_folds, posterior.n_folds) == (4, 3, 4)


def test_holms_families_are_those_of_the_tests_over_cases():
    tables = [(name, with_folds(table_of(0.003 * model, model), 4)) for model, name in enumerate("ABC")]
    mean, *single = compare_tables(tables, ["dice"]).structures
    for family in ([mean], single):
        tests = [pair.trainings for item in family for pair in item.pairs]
        assert [test.p_holm for test in tests] == pytest.approx(statistics.holm([test.p for test in tests]))


def test_the_json_holds_both_tests():
    comparison = compare_tables(tables_of(4, 1, gain=0.1), ["dice"])
    pair = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))["structures"][0]["pairs"][0]
    assert pair["exceeds_noise_floor"] is True and pair["significant"] is True
    assert pair["trainings"]["significant"] is True and pair["trainings"]["over"] == "folds"
    assert {"difference", "low", "high", "p", "p_holm", "df", "n_folds", "better"} <= pair["trainings"].keys()
    single = compare_tables(tables_of(1, 1), ["dice"]).as_dict()["structures"][0]
    assert single["pairs"][0]["trainings"] is None and single["noise_floor"]["limit"] is None


def test_equal_models_do_not_differ_over_trainings():
    table = with_folds(table_of(0, 1), 3)
    pair = first_pair([("A", table), ("B", table.copy())])
    assert (pair.trainings.p, pair.trainings.difference) == (1, 0)
