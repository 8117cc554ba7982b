"""What a reader must know of the tables of a comparison before the numbers: sentences."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd

from .comparison import MEAN, StructureComparison
from .statistics import ALPHA, smallest_p
from .trainings import Training, by_cases, common_folds, count_trainings


def notes_on_folds(trainings: tuple[Training, ...], names: tuple[str, ...]) -> Iterable[str]:
    """Name the pairs of which both models have several trainings that cannot be compared fold by fold."""
    counts = count_trainings(trainings)
    for pair in itertools.combinations(names, 2):
        if min(counts[name] for name in pair) > 1 and common_folds(trainings, pair) is None:
            yield (
                f"{pair[0]} and {pair[1]}: the cases of their folds differ, so they are compared over cases only, not "
                "over trainings."
            )


def notes_on_power(structures: Sequence[StructureComparison]) -> Iterable[str]:
    """Tell of the families of tests over cases in which nothing can be significant.

    Args:
        structures: of one metric, as ``Comparison.of`` gives them.
    """
    several = len(structures) > 1
    for family, items in (
        (MEAN if several else "one structure", structures[:1]),
        ("single structures", structures[1:]),
    ):
        tests = sum(len(item.pairs) for item in items)
        n_cases = max((len(item.values) for item in items), default=0)
        least = min(1.0, smallest_p(n_cases) * tests)
        if least > ALPHA:
            yield (
                f"{n_cases} cases cannot show a significant difference ({family}; Holm's correction for the number of "
                f"tests: {tests}): even where one model is better in every case, the adjusted p-value is at least "
                f"{least:.2g}. Read means and intervals only."
            )


def notes_on_copies(joined: Sequence[pd.DataFrame], trainings: Sequence[Training]) -> Iterable[str]:
    """Name trainings of a model with the same values in every case: one that was given twice shows no variation.

    Args:
        joined: of each metric the table of ``join_tables``.
    """
    for model in dict.fromkeys(training.model for training in trainings):
        for cases, group in by_cases(trainings, model).items():
            tables = [table.loc[table.index.isin(cases, level="case"), model] for table in joined]
            for one, other in itertools.combinations(group, 2):
                if all(table[one.repetition].equals(table[other.repetition]) for table in tables):
                    where = f" of {one.fold}" if one.fold else ""
                    yield (
                        f"{model}: repetitions {one.repetition + 1} and {other.repetition + 1} have the same values in "
                        f"every case{where}. If they are one training, given twice, the noise floor and the tests over "
                        "trainings count it twice: leave one out."
                    )
