"""Models compared on the same cases: tables in, the records of ``comparison`` out.

Values that are no finite numbers are treated by ``comparison.RULES``. Positive effect sizes and wins always speak for
the first of a pair.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd

from .comparison import MEAN, Comparison, Pair, Result, StructureComparison
from .comparison_notes import notes_on_copies, notes_on_folds, notes_on_power
from .joined_tables import join_tables, trained_cases
from .metrics import DEFAULT_METRICS, METRICS
from .noise_floor import noise_floor
from .statistics import holm, mean_intervals, paired_test, ranking
from .training_tests import TrainingTest, compare_trainings
from .trainings import Training, count_trainings, find_trainings, training_means

_Test = TypeVar("_Test", Pair, TrainingTest)


def compare_tables(
    tables: Sequence[tuple[str, pd.DataFrame]], metrics: Iterable[str] = DEFAULT_METRICS, seed: int = 0
) -> Comparison:
    """Compare models on the cases they share, which must be all cases.

    Args:
        tables: name and tidy table (``tables.read_metrics``) of each model; tables of the same name are repetitions of
            one model, such as seeds, of which some may lack folds. A table without the column ``fold`` is of one
            training.
        metrics: which of ``metrics.METRICS``.
        seed: of the bootstrap.

    Raises:
        ValueError: for fewer than two models, unknown metrics, a seed below 0, and cases or structures that some models
            lack (all are listed).
    """
    names = tuple(dict.fromkeys(name for name, _ in tables))
    metrics = tuple(dict.fromkeys(metrics))
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two models with different names; got {', '.join(names) or None}")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"no metric {', '.join(unknown) or 'given'}; there are {', '.join(METRICS)}")
    if seed < 0:
        raise ValueError(f"--seed must be 0 or more, got {seed}")
    _check_measured(tables, metrics)
    trainings = find_trainings(tables)
    wide = {metric: join_tables(tables, trainings, metric) for metric in metrics}
    cases, labels = (tuple(wide[metrics[0]].index.unique(level)) for level in ("case", "label"))

    structures: list[StructureComparison] = []
    power, missing = [], []
    for metric in metrics:
        found, lacking = _compare_metric(wide[metric], metric, labels, trainings, seed)
        structures += found
        power += notes_on_power(found)
        missing += lacking
    notes = [
        *dict.fromkeys(power),
        *notes_on_folds(trainings, names),
        *notes_on_copies([*wide.values()], trainings),
        *missing,
    ]
    repetitions = {name: sum(other == name for other, _ in tables) for name in names}
    return Comparison(
        names, repetitions, count_trainings(trainings), metrics, cases, labels, seed, tuple(structures), tuple(notes)
    )


def _check_measured(tables: Sequence[tuple[str, pd.DataFrame]], metrics: Iterable[str]) -> None:
    """Check that every table has every metric that ``evaluate`` measures only where it is asked to."""
    problems = []
    for name, table in tables:
        lacking = [METRICS[metric] for metric in metrics if METRICS[metric].group]
        lacking = [metric for metric in lacking if not (table["metric"] == metric.name).any()]
        if lacking:
            groups = " ".join(dict.fromkeys(metric.group for metric in lacking))
            names = ", ".join(metric.name for metric in lacking)
            problems.append(f"{name} has no {names}: nnunetv2_mamba evaluate ... --add {groups} measures it")
    if problems:
        raise ValueError("; ".join(dict.fromkeys(problems)))


def _compare_metric(
    wide: pd.DataFrame, metric: str, labels: tuple[str, ...], trainings: tuple[Training, ...], seed: int
) -> tuple[list[StructureComparison], list[str]]:
    """Compare models by a metric; write a sentence for each structure that has no value."""
    items, notes = [], []
    trained = trained_cases(trainings, wide.index.unique("case"))
    for label in labels:
        raw = wide.xs(label, level="label")
        if raw.notna().to_numpy().any():  # infinite counts: a model may predict in every case what is in no reference
            items.append((label, _by_the_rules(raw, metric, trained), np.isinf(raw)))
        else:
            why = (
                "has no value in any case"
                if METRICS[metric].group
                else "is in no image of any model, nor in a reference"
            )
            notes.append(f"{label} {why}: left out of {metric}.")
    if len(items) > 1:
        mean = pd.concat([values for _, values, _ in items]).groupby(level="case").mean()
        items.insert(0, (MEAN, mean, np.isinf(wide).groupby(level="case").any()))
    structures = []
    for position, (structure, values, infinite) in enumerate(items):
        rng = np.random.default_rng([seed, list(METRICS).index(metric), position])
        structures.append(_compare_structure(metric, structure, values, infinite, trainings, rng))
    return _adjusted(structures), notes


def _by_the_rules(raw: pd.DataFrame, metric: str, trained: pd.DataFrame) -> pd.DataFrame:
    """Make all values finite as ``RULES`` says, where there is a training; all are cases x (model, repetition)."""
    values = raw.dropna(how="all").fillna(METRICS[metric].best)
    infinite = np.isinf(values)
    finite = values.to_numpy()[~infinite.to_numpy()]
    values = values.mask(infinite, max(1.0, 2 * finite.max()) if finite.size else 1.0)
    return values.where(trained.loc[values.index])


def _compare_structure(
    metric: str,
    structure: str,
    values: pd.DataFrame,
    infinite: pd.DataFrame,
    trainings: tuple[Training, ...],
    rng: np.random.Generator,
) -> StructureComparison:
    """Compare all models on one structure.

    Args:
        values: as ``_by_the_rules`` gives them, of the cases that count.
        infinite: bool, of all cases x (model, repetition): where a distance was infinite.
    """
    failures = infinite.sum().groupby(level=0).sum()
    means = training_means(values, trainings)
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    tests = {
        pair: compare_trainings(values, means, *pair, sign)
        for pair in itertools.combinations(values.columns.unique("model"), 2)
    }
    # Rounded: the same mean summed in another order differs in the last bits and would not count as a tie.
    values = values.T.groupby(level=0, sort=False).mean().T.round(12)
    mean_ranks, ranks, shares = ranking(sign * values.to_numpy().T, rng)
    results = tuple(
        Result(name, mean, low, high, int(failures[name]), float(mean_rank), int(rank), tuple(own.tolist()))
        for name, mean, (low, high), mean_rank, rank, own in zip(
            values.columns,
            values.mean().tolist(),
            mean_intervals(values.to_numpy().T, rng).tolist(),
            mean_ranks,
            ranks,
            shares,
            strict=True,
        )
    )
    return StructureComparison(
        metric,
        structure,
        values,
        len(infinite) - len(values),
        results,
        _pairs(values, tests, sign, rng),
        noise_floor(means),
    )


def _pairs(
    values: pd.DataFrame,
    tests: dict[tuple[str, str], TrainingTest | None],
    sign: float,
    rng: np.random.Generator,
) -> tuple[Pair, ...]:
    """Compare all pairs of models over cases; ``p_holm`` is not adjusted yet."""
    chosen = list(tests)
    differences = np.stack([(values[first] - values[second]).round(12) for first, second in chosen])
    pairs = []
    intervals = mean_intervals(differences, rng).tolist()
    for (first, second), row, (low, high) in zip(chosen, differences, intervals, strict=True):
        p, rank_biserial = paired_test(sign * row)
        wins, ties, losses = (int(np.count_nonzero(np.sign(sign * row) == won)) for won in (1, 0, -1))
        pairs.append(
            Pair(
                first, second, float(row.mean()), low, high, p, p, rank_biserial, wins, ties, losses,
                tests[first, second],
            )
        )  # fmt: skip
    return tuple(pairs)


def _adjusted(structures: list[StructureComparison]) -> list[StructureComparison]:
    """Put in Holm's p-values, in the families that ``Comparison`` describes."""
    adjusted = []
    for family in (structures[:1], structures[1:]):
        pairs = [pair for item in family for pair in item.pairs]
        over_cases = iter(_with_holm(pairs))
        over_trainings = iter(_with_holm([test for item in family for test in item.tests_of_trainings]))
        for item in family:
            own = tuple(
                dataclasses.replace(next(over_cases), trainings=pair.trainings and next(over_trainings))
                for pair in item.pairs
            )
            adjusted.append(dataclasses.replace(item, pairs=own))
    return adjusted


def _with_holm(tests: Sequence[_Test]) -> list[_Test]:
    adjusted = holm([test.p for test in tests]).tolist()
    return [dataclasses.replace(test, p_holm=p) for test, p in zip(tests, adjusted, strict=True)]
