"""Which trainings tables are of, and which folds models share."""

import numpy as np
import pandas as pd
import pytest

from nnunetv2_mamba.evaluation.trainings import (
    Training,
    by_cases,
    common_folds,
    count_trainings,
    find_trainings,
    fold_means,
    training_means,
)


def table(**folds):
    rows = [(case, label, fold) for fold, cases in folds.items() for case in cases for label in ("x", "y")]
    return pd.DataFrame(rows, columns=["case", "label", "fold"])


def test_folds_and_seeds_are_trainings():
    tables = [("A", table(fold_0="ab", fold_1="c")), ("B", table(fold_0="abc")), ("A", table(fold_1="c"))]
    found = find_trainings([*tables, ("P", tables[0][1].drop(columns="fold"))])
    assert found == (
        Training("A", 0, "fold_0", frozenset("ab")),
        Training("A", 0, "fold_1", frozenset("c")),
        Training("B", 0, "fold_0", frozenset("abc")),
        Training("A", 1, "fold_1", frozenset("c")),
        Training("P", 0, "", frozenset("abc")),
    )
    assert count_trainings(found) == {"A": 3, "B": 1, "P": 1}
    assert {cases: len(group) for cases, group in by_cases(found, "A").items()} == {
        frozenset("ab"): 1, frozenset("c"): 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("second", "folds"),
    [
        ({"fold_1": "ab", "fold_0": "c"}, ["ab", "c"]),  # the name does not matter
        ({"fold_0": "abc"}, None),
        ({"fold_0": "ac", "fold_1": "b"}, None),
    ],
)
def test_folds_are_shared_where_their_cases_are_the_same(second, folds):
    found = find_trainings([("A", table(fold_0="ab", fold_1="c")), ("B", table(**second))])
    assert common_folds(found, ["A", "B"]) == (folds and [frozenset(fold) for fold in folds])


def test_overlapping_folds_are_not_compared():
    """The seeds of a model were split in two ways."""
    tables = [(name, table(fold_0=one, fold_1=two)) for name in "AB" for one, two in (("ab", "c"), ("a", "bc"))]
    assert common_folds(find_trainings(tables), ["A", "B"]) is None


def test_means():
    """Of the cases that have a value; a training without any is left out; seeds of a fold are averaged."""
    found = find_trainings([("A", table(fold_0="ab", fold_1="c", fold_2="d")), ("A", table(fold_0="ab"))])
    values = pd.DataFrame({("A", 0): [0.1, 0.3, 0.9], ("A", 1): [0.5, 0.7, np.nan]}, index=list("abc"))
    means = training_means(values, found)
    assert list(means.values()) == pytest.approx([0.2, 0.9, 0.6])
    assert [training.fold for training in means] == ["fold_0", "fold_1", "fold_0"]
    folds = common_folds(means, ["A"])
    assert fold_means(means, "A", folds) == pytest.approx([0.4, 0.9])
