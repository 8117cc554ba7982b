"""The noise floor: how much the mean score of a network varies between trainings that differ in seed or fold only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .training_statistics import repeatability_limit
from .trainings import Training, by_cases, common_folds, fold_means


@dataclass(frozen=True)
class Spread:
    """A standard deviation and its degrees of freedom."""

    deviation: float
    df: int

    @property
    def limit(self) -> float:
        """How far two trainings with this standard deviation stay apart 95 times in 100."""
        return repeatability_limit(self.deviation, self.df)


@dataclass(frozen=True)
class TrainingMean:
    """The mean score of a training over its cases."""

    model: str
    repetition: int
    fold: str
    mean: float


@dataclass(frozen=True)
class NoiseFloor:
    """How much the mean score varies between trainings, on one structure and metric.

    Attributes:
        means: of every training.
        seeds: by model, between trainings of the same fold, pooled over folds; models without two are left out.
        folds: by model, between folds (means over their seeds), which also differ in how difficult their cases are.
        all_seeds: pooled over models; None where no fold was trained twice.
        all_folds: of single trainings, pooled over models, without what the folds' cases and training sets do to all
            models alike (the residual of folds x models); None where the models do not share two folds or more.
    """

    means: tuple[TrainingMean, ...]
    seeds: dict[str, Spread]
    folds: dict[str, Spread]
    all_seeds: Spread | None
    all_folds: Spread | None

    @property
    def limit(self) -> float | None:
        """How far two trainings of the same network stay apart 95 times in 100; None where nothing shows it.

        The larger of the limits by ``all_seeds`` and by ``all_folds``, as if all models varied alike: a network with
        twice the pooled standard deviation exceeds it in every third pair of its trainings.
        """
        return max((spread.limit for spread in (self.all_seeds, self.all_folds) if spread is not None), default=None)

    def as_dict(self) -> dict:
        """Give plain data, with nothing in it that JSON has not."""

        def plain(spread: Spread | None) -> dict | None:
            return None if spread is None else vars(spread)

        return {
            "between_seeds": {name: plain(spread) for name, spread in self.seeds.items()},
            "between_folds": {name: plain(spread) for name, spread in self.folds.items()},
            "between_seeds_of_all_models": plain(self.all_seeds),
            "between_folds_of_all_models": plain(self.all_folds),
            "limit": self.limit,
            "trainings": [vars(mean) for mean in self.means],
        }


def noise_floor(means: Mapping[Training, float]) -> NoiseFloor:
    """Measure it from the mean score of every training on one structure and metric."""
    models = list(dict.fromkeys(training.model for training in means))
    seeds, folds = {}, {}
    for model in models:
        groups = [[means[training] for training in group] for group in by_cases(means, model).values()]
        seeds[model] = _pooled([_spread(group) for group in groups if len(group) > 1])
        own = common_folds(means, [model])
        if own and len(own) > 1:
            folds[model] = _spread(fold_means(means, model, own))
    all_seeds = _pooled([spread for spread in seeds.values() if spread is not None])
    return NoiseFloor(
        tuple(TrainingMean(t.model, t.repetition, t.fold, mean) for t, mean in means.items()),
        {model: spread for model, spread in seeds.items() if spread is not None},
        folds,
        all_seeds,
        _interaction(means, models, all_seeds),
    )


def _interaction(means: Mapping[Training, float], models: Sequence[str], seeds: Spread | None) -> Spread | None:
    """Take the residual standard deviation of folds x models: an analysis of variance without replication.

    Where folds have several seeds, their means vary less than single trainings: by what is between ``seeds``, of which
    the mean of n has the n-th part. Each cell counts the same in the expected residual.
    """
    folds = common_folds(means, models)
    if not folds or len(folds) < 2 or len(models) < 2:
        return None
    table = np.stack([fold_means(means, model, folds) for model in models])
    rest = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    df = (len(models) - 1) * (len(folds) - 1)
    variance = (rest**2).sum() / df
    if seeds is not None:
        groups = [by_cases(means, model) for model in models]
        parts = [1 / len(own[fold]) for own in groups for fold in folds]
        variance += seeds.deviation**2 * (1 - np.mean(parts))
    return Spread(float(np.sqrt(variance)), df)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(float(np.std(values, ddof=1)), len(values) - 1)


def _pooled(spreads: Sequence[Spread]) -> Spread | None:
    """Pool variances by their degrees of freedom."""
    df = sum(spread.df for spread in spreads)
    return Spread(math.sqrt(sum(s.df * s.deviation**2 for s in spreads) / df), df) if df else None
