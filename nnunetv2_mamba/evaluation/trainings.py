"""Which trainings stand behind the tables of a comparison: a fold of a repetition of a model is one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .tables import FOLD


@dataclass(frozen=True)
class Training:
    """A training of a model, with the cases that it was validated on.

    Attributes:
        model: its name.
        repetition: which of the tables of that name, from 0; repetitions usually differ in their seed.
        fold: ``"fold_0"``, ...; empty for a folder of predictions, which counts as one training.
    """

    model: str
    repetition: int
    fold: str
    cases: frozenset[str]


def find_trainings(tables: Sequence[tuple[str, pd.DataFrame]]) -> tuple[Training, ...]:
    """List the trainings of tables with the columns ``case`` and, unless a table is of one training, ``fold``."""
    counted: dict[str, int] = {}
    found = []
    for name, table in tables:
        repetition = counted[name] = counted.get(name, -1) + 1
        folds = table[FOLD] if FOLD in table else pd.Series("", index=table.index)
        found += [
            Training(name, repetition, fold, frozenset(cases))
            for fold, cases in table["case"].groupby(folds, sort=False)
        ]
    return tuple(found)


def by_cases(trainings: Iterable[Training], model: str) -> dict[frozenset[str], list[Training]]:
    """Group the trainings of a model by the cases that they share: those of a group differ in their seed only."""
    groups: dict[frozenset[str], list[Training]] = {}
    for training in trainings:
        if training.model == model:
            groups.setdefault(training.cases, []).append(training)
    return groups


def common_folds(trainings: Iterable[Training], models: Iterable[str]) -> list[frozenset[str]] | None:
    """Give the folds, as sets of cases, that all of the models have; None where their folds differ or overlap."""
    trainings = list(trainings)
    first, *others = ({*by_cases(trainings, model)} for model in models)
    overlapping = any(one & other for one, other in itertools.combinations(first, 2))
    return None if overlapping or any(own != first for own in others) else sorted(first, key=min)


def training_means(values: pd.DataFrame, trainings: Iterable[Training]) -> dict[Training, float]:
    """Compute the mean score of each training over its cases, without those of which no case has a value.

    Args:
        values: case x (model, repetition).
    """
    columns = {
        training: values.loc[values.index.isin(training.cases), (training.model, training.repetition)]
        for training in trainings
    }
    return {training: float(column.mean()) for training, column in columns.items() if len(column)}


def fold_means(means: Mapping[Training, float], model: str, folds: Sequence[frozenset[str]]) -> np.ndarray:
    """Average the means of a model's trainings of each fold: (folds,)."""
    groups = by_cases(means, model)
    return np.array([np.mean([means[training] for training in groups[fold]]) for fold in folds])


def count_trainings(trainings: Iterable[Training]) -> dict[str, int]:
    """Count the trainings of each model."""
    counts: dict[str, int] = {}
    for training in trainings:
        counts[training.model] = counts.get(training.model, 0) + 1
    return counts
