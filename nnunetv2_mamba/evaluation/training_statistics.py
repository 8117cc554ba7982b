"""The difference between two networks, tested with the random effect of the training, for few trainings.

A mean difference varies with the training (its seed), the training set (its fold), the cases, and the rest. Its
standard error is estimated from the trainings themselves, and Student's t with their few degrees of freedom takes the
place of the normal distribution: Wald tests of mixed models and the bootstrap over folds find differences between five
trainings and five others of the same network too often (benchmarks/null_experiment.py).

Arrays may have leading axes, over which all is computed at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from .statistics import ALPHA

_DECIMALS = 12  # the same mean summed in another order differs in the last bits and would be a difference


class Difference(NamedTuple):
    """Mean differences, the ends of their 95 % confidence intervals, two-sided p-values and degrees of freedom."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    df: np.ndarray


def over_folds(differences: np.ndarray) -> Difference:
    """Test the mean of the folds' differences by Student's t, each fold counting the same.

    Exact for folds with the same number of cases and trainings (nested analysis of variance). For others it keeps its
    level too: at 5 % the t-test is conservative for independent normal values of any different variances (Bakirov and
    Szekely 2006; recommended for few clusters by Ibragimov and Mueller, Journal of Business and Economic Statistics 28,
    453-468, 2010).

    Args:
        differences: (..., folds), two folds or more: of the mean scores of a fold's cases, averaged over its trainings.
    """
    folds = differences.shape[-1]
    return _student(differences.mean(-1), differences.var(-1, ddof=1) / folds, np.asarray(folds - 1.0))


def over_seeds(folds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Difference:
    """Test the mean difference of models that have two or more trainings in every fold, the training sets being given.

    Seeds and cases are crossed random effects, seeds are nested in models: the analysis of variance of studies with
    several readers and cases, in which readers are trainings (Hillis, Statistics in Medicine 26, 596-619, 2007). The
    variances of the two models' trainings may differ (Welch, Biometrika 34, 28-35, 1947); degrees of freedom by
    Satterthwaite (Biometrics Bulletin 2, 110-114, 1946), but at most twice those of the seeds of the model that has
    fewer, which is Welch's most for equal numbers: where few seeds happen to lie close together, Satterthwaite's would
    be those of the cases, and the test too liberal (benchmarks/null_experiment.py). Each fold counts the same.

    Args:
        folds: of each fold the values of the first and of the second model, (..., cases, seeds): the same cases, two
            or more; two seeds or more.
    """
    means, variances, dfs = [], [], []
    for fold in folds:
        first, second = (values.mean(-1) for values in fold)
        n_cases = first.shape[-1]
        means.append((first - second).mean(-1))
        # Holds the rest once more, which the variances between seeds hold already; taken out below
        between_cases = (first - second).var(-1, ddof=1) / n_cases
        for values in fold:
            n_seeds = values.shape[-1]
            of_seeds, of_cases = values.mean(-2, keepdims=True), values.mean(-1, keepdims=True)
            variances.append(of_seeds[..., 0, :].var(-1, ddof=1) / n_seeds)
            dfs.append(n_seeds - 1)
            rest = values - of_seeds - of_cases + of_seeds.mean(-1, keepdims=True)
            mean_square = (rest**2).sum((-2, -1)) / ((n_cases - 1) * (n_seeds - 1))
            between_cases = between_cases - mean_square / (n_seeds * n_cases)
        variances.append(np.maximum(between_cases, 0))
        dfs.append(n_cases - 1)
    parts = np.stack(variances, axis=-1) / len(folds) ** 2
    total = parts.sum(-1)
    squares = (parts**2 / np.array(dfs)).sum(-1)
    df = np.divide(total**2, squares, out=np.full_like(total, float(sum(dfs))), where=squares > 0)
    of_seeds = [sum(values.shape[-1] - 1 for values in own) for own in zip(*folds, strict=True)]
    return _student(np.mean(means, axis=0), total, np.minimum(df, 2.0 * min(of_seeds)))


def repeatability_limit(deviation: float, df: float) -> float:
    """Give the difference below which two trainings of the same network stay 95 times in 100.

    Repeatability limit (ISO 5725-6; repeatability coefficient of Bland and Altman, Statistical Methods in Medical
    Research 8, 135-160, 1999), with Student's t for a standard deviation that is known from few trainings.
    """
    return float(stats.t.ppf(1 - ALPHA / 2, df) * np.sqrt(2) * deviation)


def _student(mean: np.ndarray, variance: np.ndarray, df: np.ndarray) -> Difference:
    """Make interval and p-value of means with their variances; without any variance, p is 1 for 0, otherwise 0."""
    mean, error = np.round(mean, _DECIMALS), np.round(np.sqrt(variance), _DECIMALS)
    half = stats.t.ppf(1 - ALPHA / 2, df) * error
    t = np.divide(np.abs(mean), error, out=np.where(mean == 0, 0.0, np.inf), where=error > 0)
    return Difference(mean, mean - half, mean + half, 2 * stats.t.sf(t, df), df)
