"""Models compared on the same cases: tables in, the records of ``comparison`` out.

Values that are no finite numbers are treated by ``comparison.RULES``. Positive effect sizes and wins always speak for
the first of a pair.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from .comparison import MEAN, Comparison, Pair, Result, StructureComparison
from .metrics import DEFAULT_METRICS, METRICS
from .statistics import ALPHA, holm, mean_intervals, paired_test, ranking, smallest_p


def compare_tables(
    tables: Sequence[tuple[str, pd.DataFrame]], metrics: Iterable[str] = DEFAULT_METRICS, seed: int = 0
) -> Comparison:
    """Compare models on the cases they share, which must be all cases.

    Args:
        tables: name and tidy table (``tables.read_metrics``) of each model; tables of the same name are repetitions of
            one model, such as seeds.
        metrics: which of ``metrics.METRICS``.
        seed: of the bootstrap.

    Raises:
        ValueError: for fewer than two models, unknown metrics, and cases or structures that some models lack (all are
            listed).
    """
    names = tuple(dict.fromkeys(name for name, _ in tables))
    metrics = tuple(dict.fromkeys(metrics))
    if len(names) < 2:
        raise ValueError(f"a comparison needs at least two models with different names; got {', '.join(names) or None}")
    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown or not metrics:
        raise ValueError(f"no metric {', '.join(unknown) or 'given'}; there are {', '.join(METRICS)}")
    wide = {metric: _joined(tables, metric) for metric in metrics}
    cases, labels = (tuple(wide[metrics[0]].index.unique(level)) for level in ("case", "label"))

    structures: list[StructureComparison] = []
    notes = list(_notes_on_power(len(cases), len(names), len(labels)))
    for metric in metrics:
        found, missing = _compare_metric(wide[metric], metric, labels, seed)
        structures += found
        notes += missing
    repetitions = {name: sum(other == name for other, _ in tables) for name in names}
    return Comparison(names, repetitions, metrics, cases, labels, seed, tuple(structures), tuple(notes))


def _joined(tables: Sequence[tuple[str, pd.DataFrame]], metric: str) -> pd.DataFrame:
    """Join the values of a metric: (case, label) x tables, each column called as its model.

    Raises:
        ValueError: for cases, structures or single values that some tables lack or have twice, all of them.
    """
    columns = [table[table["metric"] == metric].set_index(["case", "label"])["value"] for _, table in tables]
    cases, labels = ({key for column in columns for key in column.index.unique(level)} for level in ("case", "label"))
    order = list(dict.fromkeys(label for column in columns for label in column.index.unique("label")))
    expected = pd.MultiIndex.from_product([sorted(cases), order], names=["case", "label"])
    problems = []
    for (name, _), column in zip(tables, columns, strict=True):
        if column.index.has_duplicates:
            twice = column.index[column.index.duplicated()].unique("case")
            problems.append(f"{name} has more than one {metric} for {', '.join(twice)}")
        missing = expected.difference(column.index)
        if not len(missing):
            continue
        whole = sorted(cases - set(column.index.unique("case")))
        absent = sorted(labels - set(column.index.unique("label")))
        rest = [f"{case} / {label}" for case, label in missing if case not in whole and label not in absent]
        listed = [f"case {case}" for case in whole] + [f"structure {label}" for label in absent] + rest
        problems.append(f"{name} lacks {metric} of {', '.join(listed)}")
    if problems:
        raise ValueError(f"models can be compared on the same cases and structures only: {'; '.join(problems)}")
    joined = pd.concat([column.reindex(expected) for column in columns], axis=1)
    return joined.set_axis([name for name, _ in tables], axis=1)


def _compare_metric(
    wide: pd.DataFrame, metric: str, labels: tuple[str, ...], seed: int
) -> tuple[list[StructureComparison], list[str]]:
    """Compare models by a metric; write a sentence for each structure that has no value."""
    items, notes = [], []
    for label in labels:
        raw = wide.xs(label, level="label")
        if raw.notna().to_numpy().any():  # infinite counts: a model may predict in every case what is in no reference
            items.append((label, _by_the_rules(raw, metric), np.isinf(raw)))
        else:
            notes.append(f"{label} is in no image of any model, nor in a reference: left out of {metric}.")
    if len(items) > 1:
        mean = pd.concat([values for _, values, _ in items]).groupby(level="case").mean()
        items.insert(0, (MEAN, mean, np.isinf(wide).groupby(level="case").any()))
    structures = []
    for position, (structure, values, infinite) in enumerate(items):
        rng = np.random.default_rng([seed, list(METRICS).index(metric), position])
        structures.append(_compare_structure(metric, structure, values, infinite, rng))
    return _adjusted(structures), notes


def _by_the_rules(raw: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Make all values finite as ``RULES`` says; both are cases x tables."""
    values = raw.dropna(how="all").fillna(METRICS[metric].best)
    infinite = np.isinf(values)
    finite = values.to_numpy()[~infinite.to_numpy()]
    return values.mask(infinite, max(1.0, 2 * finite.max()) if finite.size else 1.0)


def _compare_structure(
    metric: str, structure: str, values: pd.DataFrame, infinite: pd.DataFrame, rng: np.random.Generator
) -> StructureComparison:
    """Compare all models on one structure.

    Args:
        values: as ``_by_the_rules`` gives them, of the cases that count.
        infinite: bool, of all cases x tables: where a distance was infinite.
    """
    failures = infinite.sum().groupby(level=0).sum()
    # Rounded: the same mean summed in another order differs in the last bits and would not count as a tie.
    values = values.T.groupby(level=0, sort=False).mean().T.round(12)
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
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
        metric, structure, values, len(infinite) - len(values), results, _pairs(values, sign, rng)
    )


def _pairs(values: pd.DataFrame, sign: float, rng: np.random.Generator) -> tuple[Pair, ...]:
    """Compare all pairs of models; ``p_holm`` is not adjusted yet."""
    chosen = list(itertools.combinations(values.columns, 2))
    differences = np.stack([(values[first] - values[second]).round(12) for first, second in chosen])
    pairs = []
    intervals = mean_intervals(differences, rng).tolist()
    for (first, second), row, (low, high) in zip(chosen, differences, intervals, strict=True):
        p, rank_biserial = paired_test(sign * row)
        wins, ties, losses = (int(np.count_nonzero(np.sign(sign * row) == won)) for won in (1, 0, -1))
        pairs.append(Pair(first, second, float(row.mean()), low, high, p, p, rank_biserial, wins, ties, losses))
    return tuple(pairs)


def _adjusted(structures: list[StructureComparison]) -> list[StructureComparison]:
    """Put in Holm's p-values, in the families that ``Comparison`` describes."""
    adjusted = []
    for family in (structures[:1], structures[1:]):
        p_values = iter(holm([pair.p for item in family for pair in item.pairs]).tolist())
        for item in family:
            pairs = tuple(dataclasses.replace(pair, p_holm=next(p_values)) for pair in item.pairs)
            adjusted.append(dataclasses.replace(item, pairs=pairs))
    return adjusted


def _notes_on_power(n_cases: int, n_models: int, n_labels: int) -> Iterable[str]:
    n_pairs = n_models * (n_models - 1) // 2
    families = {MEAN if n_labels > 1 else "one structure": n_pairs}
    if n_labels > 1:
        families["single structures"] = n_pairs * n_labels
    for family, tests in families.items():
        least = min(1.0, smallest_p(n_cases) * tests)
        if least > ALPHA:
            yield (
                f"{n_cases} cases cannot show a significant difference ({family}; Holm's correction for the number of "
                f"tests: {tests}): even where one model is better in every case, the adjusted p-value is at least "
                f"{least:.2g}. Read means and intervals only."
            )
