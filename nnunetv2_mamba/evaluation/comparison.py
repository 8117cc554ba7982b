"""The records of a comparison of models: means, differences, tests and ranks, per structure and over all structures.

What is not a finite number is treated by ``RULES``, which every output repeats.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .noise_floor import NoiseFloor
from .statistics import ALPHA
from .training_tests import TrainingTest

MEAN = "mean over structures"
RULES = (
    "A structure that a case's reference and all predictions lack is left out of this case (the number is given).",
    "Where only some predictions rightly lack a structure that the reference lacks, they get the best value (1, or a "
    "distance or another error of 0).",
    "An infinite distance or relative error (only one of reference and prediction has the structure) counts as twice "
    "the largest finite one of this structure in the comparison, at least 1 (mm), also where none is finite, which is "
    "worse than all others; the number of such failures, of all repetitions together, is given.",
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
    """Two models on one structure: these trainings, on further cases of this kind.

    Attributes:
        difference: mean of first minus second over the cases, in the metric's unit, with its interval.
        p, p_holm: of the Wilcoxon signed-rank test; adjusted within the family that ``Comparison`` describes.
        trainings: the same two networks, trained again; None where there are not several trainings of both.
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
    trainings: TrainingTest | None = None

    @property
    def significant(self) -> bool:
        return self.p_holm <= ALPHA

    @property
    def better(self) -> str:
        """The model that the test speaks for, which means something where it is significant."""
        return self.first if self.rank_biserial > 0 else self.second


@dataclass(frozen=True)
class StructureComparison:
    """All models on one structure and metric.

    Attributes:
        values: cases x models, as they went into the statistics over cases.
        noise: how much the mean score varies between trainings.
    """

    metric: str
    structure: str
    values: pd.DataFrame
    left_out: int
    results: tuple[Result, ...]
    pairs: tuple[Pair, ...]
    noise: NoiseFloor

    @property
    def tests_of_trainings(self) -> list[TrainingTest]:
        """The tests of those pairs that have several trainings each."""
        return [pair.trainings for pair in self.pairs if pair.trainings is not None]

    def exceeds(self, pair: Pair) -> bool | None:
        """Tell whether a mean difference is more than the noise floor's limit; None where that is not known."""
        difference = pair.difference if pair.trainings is None else pair.trainings.difference
        return None if self.noise.limit is None else abs(difference) > self.noise.limit


@dataclass(frozen=True)
class Comparison:
    """Everything compared.

    Holm's families are, for each metric: all pairs on the mean over structures; all pairs on all structures; those of
    the tests over cases and those of the tests over trainings each on their own. Metrics are not corrected for each
    other.

    Attributes:
        names: of the models, in the order given.
        repetitions: tables behind each name; their values are averaged within each case.
        trainings: trainings behind each name: the folds of all repetitions.
        notes: what a reader must know before the numbers.
    """

    names: tuple[str, ...]
    repetitions: dict[str, int]
    trainings: dict[str, int]
    metrics: tuple[str, ...]
    cases: tuple[str, ...]
    labels: tuple[str, ...]
    seed: int
    structures: tuple[StructureComparison, ...]
    notes: tuple[str, ...]

    def of(self, metric: str) -> list[StructureComparison]:
        """Give the comparisons of a metric; the first is the mean over structures, or the only structure."""
        return [structure for structure in self.structures if structure.metric == metric]

    @property
    def overall(self) -> list[StructureComparison]:
        """The first comparison of every metric that has any."""
        return [items[0] for metric in self.metrics if (items := self.of(metric))]

    def values(self) -> pd.DataFrame:
        """Give all values as one tidy table with the columns result, metric, structure, case and value."""
        parts = {(item.metric, item.structure): item.values.stack() for item in self.structures}
        table = pd.concat(parts, names=["metric", "structure", "case", "result"]).rename("value").reset_index()
        return table[["result", "metric", "structure", "case", "value"]]

    def as_dict(self) -> dict:
        """Give all but the values in JSON's types; NaN (the interval of a single case) becomes None."""
        structures = [
            {
                "metric": item.metric,
                "structure": item.structure,
                "cases": len(item.values),
                "cases_left_out": item.left_out,
                "results": [_plain(result) for result in item.results],
                "noise_floor": item.noise.as_dict(),
                "pairs": [
                    _plain(pair)
                    | {"significant": pair.significant, "exceeds_noise_floor": item.exceeds(pair)}
                    | {
                        "trainings": pair.trainings
                        and _plain(pair.trainings) | {"significant": pair.trainings.significant}
                    }
                    for pair in item.pairs
                ],
            }
            for item in self.structures
        ]
        fields = ("names", "repetitions", "trainings", "metrics", "cases", "labels", "seed", "notes")
        return {field: getattr(self, field) for field in fields} | {"rules": RULES, "structures": structures}


def _plain(item: Result | Pair | TrainingTest) -> dict:
    values = dataclasses.asdict(item)
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in values.items()}
