"""Models compared on the same cases: means, differences, tests and ranks, per structure and over all structures.

What is not a finite number is treated by ``RULES``, which every output repeats. Distances: lower is better; all other
metrics: higher is better. Positive effect sizes and wins always speak for the first of a pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .catalog import DEFAULT, METRICS
from .statistics import ALPHA, holm, mean_intervals, paired_test, ranking, smallest_p

MEAN = "mean over structures"
RULES = (
    "A structure that a case's reference and all predictions lack is left out of this case (the number is given).",
    "Where only some predictions rightly lack a structure that the reference lacks, they get the best value (1, or a "
    "distance of 0).",
    "An infinite distance (only one of reference and prediction has the structure) counts as twice the largest finite "
    "distance of this structure in the comparison, at least 1 mm, also where none is finite, which is worse than all "
    "others; the number of such failures is given.",
    "The mean over structures is taken within each case first.",
)


@dataclass(frozen=True)
class Result:
    """One model on one structure: mean with its interval, failures (infinite distances), rank and its stability."""

    name: str
    mean: float
    low: float
    high: float
    failures: int
    mean_rank: float
    rank: int
    rank_shares: tuple[float, ...]


@dataclass(frozen=True)
class Pair:
    """Two models on one structure. ``difference``: mean of first minus second, in the metric's unit, with its interval.

    ``p`` is of the Wilcoxon signed-rank test, ``p_holm`` adjusted within the family that ``Comparison`` describes.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    rank_biserial: float
    wins: int
    ties: int
    losses: int

    @property
    def significant(self) -> bool:
        return self.p_holm <= ALPHA

    @property
    def better(self) -> str:
        """The model that the test speaks for; of use where it is significant."""
        return self.first if self.rank_biserial > 0 else self.second


@dataclass(frozen=True)
class StructureComparison:
    """All models on one structure and metric. ``values``: cases x models, as they went into the statistics."""

    metric: str
    structure: str
    values: pd.DataFrame
    left_out: int
    results: tuple[Result, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Comparison:
    """Everything compared.

    Holm's families are, for each metric: all pairs on the mean over structures; all pairs on all structures. Metrics
    are not corrected for each other.

    Attributes:
        names: of the models, in the order given.
        repetitions: tables behind each name; their values are averaged within each case.
        notes: what a reader must know before the numbers.
    """

    names: tuple[str, ...]
    repetitions: dict[str, int]
    metrics: tuple[str, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    seed: int
    structures: tuple[StructureComparison, ...]
    notes: tuple[str, ...]

    def of(self, metric: str) -> list[StructureComparison]:
        """The comparisons of a metric; the first is the mean over structures, or the only structure."""
        return [structure for structure in self.structures if structure.metric == metric]

    def values(self) -> pd.DataFrame:
        """Tidy: result, metric, structure, case, value."""
        parts = [
            item.values.stack()
            .rename_axis(["case", "result"])
            .rename("value")
            .reset_index()
            .assign(metric=item.metric, structure=item.structure)
            for item in self.structures
        ]
        return pd.concat(parts, ignore_index=True)[["result", "metric", "structure", "case", "value"]]

    def as_dict(self) -> dict:
        """For JSON: plain types; NaN (the interval of a single case) as None."""
        structures = [
            {
                "metric": item.metric,
                "structure": item.structure,
                "cases": len(item.values),
                "cases_left_out": item.left_out,
                "results": [_plain(result) for result in item.results],
                "pairs": [_plain(pair) | {"significant": pair.significant} for pair in item.pairs],
            }
            for item in self.structures
        ]
        fields = ("names", "repetitions", "metrics", "cases", "labels", "seed", "notes")
        return {field: getattr(self, field) for field in fields} | {"rules": RULES, "structures": structures}


def compare(tables: Sequence[tuple[str, pd.DataFrame]], metrics: Iterable[str] = DEFAULT, seed: int = 0) -> Comparison:
    """Compare models on the cases they share, which must be all cases.

    Args:
        tables: name and tidy table (``tables.read_metrics``) of each model; tables of the same name are repetitions of
            one model, such as seeds.
        metrics: which of ``catalog.METRICS``.
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
        found, said = _compare_metric(wide[metric], metric, labels, seed)
        structures += found
        notes += said
    repetitions = {name: sum(other == name for other, _ in tables) for name in names}
    return Comparison(names, repetitions, metrics, cases, labels, seed, tuple(structures), tuple(notes))


def _joined(tables: Sequence[tuple[str, pd.DataFrame]], metric: str) -> pd.DataFrame:
    """(case, label) x tables, each column called as its model."""
    columns = []
    for _, table in tables:
        chosen = table[table["metric"] == metric].astype({"case": str, "label": str})
        columns.append(chosen.set_index(["case", "label"])["value"])
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
    notes = []
    usable = {}
    for label in labels:
        raw = wide.xs(label, level="label")
        if raw.notna().to_numpy().any():  # infinite counts: a model may predict in every case what is in no reference
            usable[label] = _by_the_rules(raw, metric)
        else:
            notes.append(f"{label} is in no image of any model, nor in a reference: left out of {metric}.")
    items = [(label, values, _infinite(wide.xs(label, level="label"))) for label, values in usable.items()]
    if len(usable) > 1:
        mean = pd.concat(usable.values()).groupby(level="case").mean()
        items.insert(0, (MEAN, mean, _infinite(wide).groupby(level="case").any()))
    n_cases = wide.index.unique("case").size
    structures = []
    for position, (structure, values, infinite) in enumerate(items):
        rng = np.random.default_rng([seed, list(METRICS).index(metric), position])
        structures.append(_compare_structure(metric, structure, values, infinite, n_cases, rng))
    return _adjusted(structures), notes


def _infinite(values: pd.DataFrame) -> pd.DataFrame:
    return values.abs() == np.inf


def _by_the_rules(raw: pd.DataFrame, metric: str) -> pd.DataFrame:
    """cases x tables, finite: see ``RULES``."""
    values = raw.dropna(how="all").fillna(METRICS[metric].best)
    infinite = _infinite(values)
    finite = values.to_numpy()[~infinite.to_numpy()]
    return values.mask(infinite, max(1.0, 2 * finite.max()) if finite.size else 1.0)


def _compare_structure(
    metric: str,
    structure: str,
    values: pd.DataFrame,
    infinite: pd.DataFrame,
    n_cases: int,
    rng: np.random.Generator,
) -> StructureComparison:
    failures = infinite.sum().groupby(level=0).sum()
    # Rounded: the same mean summed in another order differs in the last bits and would not count as a tie.
    values = values.T.groupby(level=0, sort=False).mean().T.round(12)
    sign = -1.0 if METRICS[metric].lower_is_better else 1.0
    scores = sign * values.to_numpy().T
    ranks = ranking(scores, rng)
    results = tuple(
        Result(name, mean, low, high, int(failures[name]), float(mean_rank), int(rank), tuple(shares.tolist()))
        for name, mean, (low, high), mean_rank, rank, shares in zip(
            values.columns,
            values.mean().tolist(),
            mean_intervals(values.to_numpy().T, rng).tolist(),
            ranks.mean_ranks,
            ranks.ranks,
            ranks.shares,
            strict=True,
        )
    )
    pairs = _pairs(values, sign, rng)
    return StructureComparison(metric, structure, values, n_cases - len(values), results, pairs)


def _pairs(values: pd.DataFrame, sign: float, rng: np.random.Generator) -> tuple[Pair, ...]:
    """All pairs; ``p_holm`` is not adjusted yet."""
    names = list(values.columns)
    chosen = [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
    differences = np.stack([(values[first] - values[second]).round(12) for first, second in chosen])
    pairs = []
    intervals = mean_intervals(differences, rng).tolist()
    for (first, second), row, (low, high) in zip(chosen, differences, intervals, strict=True):
        test = paired_test(sign * row)
        counts = (test.positive, test.zero, test.negative)
        pairs.append(Pair(first, second, float(row.mean()), low, high, test.p, test.p, test.rank_biserial, *counts))
    return tuple(pairs)


def _adjusted(structures: list[StructureComparison]) -> list[StructureComparison]:
    """With Holm's p-values, in the families that ``Comparison`` describes."""
    several = len(structures) > 1
    families = [structures[:1], structures[1:]] if several else [structures]
    adjusted = []
    for family in families:
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


def _plain(item: Result | Pair) -> dict:
    values = dataclasses.asdict(item)
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in values.items()}
