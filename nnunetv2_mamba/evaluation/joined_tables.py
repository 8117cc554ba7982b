"""The tables of models joined on the cases that they share: all of them, but for whole folds that a seed lacks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .trainings import Training

COLUMNS = ["model", "repetition"]


def join_tables(tables: Sequence[tuple[str, pd.DataFrame]], trainings: Sequence[Training], metric: str) -> pd.DataFrame:
    """Join the values of a metric: (case, label) x (model, repetition).

    A repetition may lack folds that other repetitions of the model have: no value there.

    Raises:
        ValueError: for cases, structures or single values that some tables lack or have twice, all of them.
    """
    columns = [table[table["metric"] == metric].set_index(["case", "label"])["value"] for _, table in tables]
    cases, labels = ({key for column in columns for key in column.index.unique(level)} for level in ("case", "label"))
    order = list(dict.fromkeys(label for column in columns for label in column.index.unique("label")))
    expected = pd.MultiIndex.from_product([sorted(cases), order], names=["case", "label"])
    keys = list(dict.fromkeys((training.model, training.repetition) for training in trainings))
    problems = []
    for (name, repetition), column in zip(keys, columns, strict=True):
        several = sum(model == name for model, _ in keys) > 1
        title = f"{name} (repetition {repetition + 1})" if several else name
        if column.index.has_duplicates:
            twice = column.index[column.index.duplicated()].unique("case")
            problems.append(f"{title} has more than one {metric} for {', '.join(twice)}")
        missing = expected.difference(column.index)
        missing = missing[~missing.isin(_untrained(column, [t for t in trainings if t.model == name]), level="case")]
        if not len(missing):
            continue
        whole = sorted(set(missing.unique("case")) - set(column.index.unique("case")))
        absent = sorted(labels - set(column.index.unique("label")))
        rest = [f"{case} / {label}" for case, label in missing if case not in whole and label not in absent]
        listed = [f"case {case}" for case in whole] + [f"structure {label}" for label in absent] + rest
        problems.append(f"{title} lacks {metric} of {', '.join(listed)}")
    if problems:
        raise ValueError(f"models can be compared on the same cases and structures only: {'; '.join(problems)}")
    joined = pd.concat([column.reindex(expected) for column in columns], axis=1)
    return joined.set_axis(pd.MultiIndex.from_tuples(keys, names=COLUMNS), axis=1)


def trained_cases(trainings: Sequence[Training], cases: Sequence[str]) -> pd.DataFrame:
    """Tell, case x (model, repetition), whether a repetition has a training that was validated on the case."""
    own: dict[tuple[str, int], set[str]] = {}
    for training in trainings:
        own.setdefault((training.model, training.repetition), set()).update(training.cases)
    table = pd.DataFrame({key: pd.Index(cases).isin(found) for key, found in own.items()}, index=list(cases))
    return table.rename_axis(index="case").rename_axis(columns=COLUMNS)


def _untrained(column: pd.Series, trainings: Sequence[Training]) -> list[str]:
    """Find the cases of folds of a model of which a repetition has no case at all."""
    own = set(column.index.unique("case"))
    return sorted({case for training in trainings if not training.cases & own for case in training.cases})
