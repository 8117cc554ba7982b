"""Two networks compared over their trainings, as far as there are several: by folds, or by seeds within folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from . import training_statistics
from .statistics import ALPHA
from .trainings import Training, by_cases, common_folds, fold_means

_FOLDS = 3  # from here on folds tell more than the seeds within them: the training sets vary too


@dataclass(frozen=True)
class TrainingTest:
    """Two networks on one structure, the random effect of the training in interval and test.

    Attributes:
        difference: mean of first minus second, in the metric's unit, every fold counting the same; with its interval.
        better: the model that the mean difference speaks for.
        p, p_holm: of the t-test; adjusted within the family that ``Comparison`` describes.
        over: ``"folds"`` or ``"seeds"``: what varies in the test besides the cases.
        n_folds: folds in it.
        df: degrees of freedom.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    better: str
    p: float
    p_holm: float
    over: str
    n_folds: int
    df: float

    @property
    def significant(self) -> bool:
        return self.p_holm <= ALPHA


def compare_trainings(
    values: pd.DataFrame, means: Mapping[Training, float], first: str, second: str, sign: float
) -> TrainingTest | None:
    """Compare two models over their trainings.

    Over folds where there are three or more; else over seeds, where every fold has two or more of each model; else over
    the two folds.

    Args:
        values: case x (model, repetition), of the cases that count.
        means: of ``training_means``.
        sign: 1 where higher values are better, else -1.

    Returns:
        None where the models do not share their folds, or one of them has a single training; ``p_holm`` is not adjusted
        yet.
    """
    folds = common_folds(means, (first, second))
    if not folds:
        return None
    if len(folds) < _FOLDS and (blocks := _blocks(values, means, (first, second), folds)):
        over, found = "seeds", training_statistics.over_seeds(blocks)
    elif len(folds) > 1:
        differences = fold_means(means, first, folds) - fold_means(means, second, folds)
        over, found = "folds", training_statistics.over_folds(differences)
    else:
        return None
    difference, low, high, p, df = (float(value) for value in found)
    better = first if sign * difference > 0 else second
    return TrainingTest(first, second, difference, low, high, better, p, p, over, len(folds), df)


def _blocks(
    values: pd.DataFrame, trainings: Iterable[Training], models: Sequence[str], folds: Sequence[frozenset[str]]
) -> list[tuple] | None:
    """Give the values of each fold and model, (cases, seeds); None where one has less than two of either."""
    groups = [by_cases(trainings, model) for model in models]
    blocks = [
        tuple(
            values.loc[values.index.isin(fold), [(t.model, t.repetition) for t in group[fold]]].to_numpy()
            for group in groups
        )
        for fold in folds
    ]
    return blocks if min(size for block in blocks for own in block for size in own.shape) > 1 else None
