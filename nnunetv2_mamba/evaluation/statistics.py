"""The statistics of a paired comparison, computed by scipy.

Everywhere: one value per case, cases independent of each other, a two-sided level of ``ALPHA``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from scipy import stats

ALPHA = 0.05
RESAMPLES = 9999
SIGN_FLIPS = 99_999  # drawn by a test with ties, where there are not fewer of them in all
_EXACT = 50  # differences up to which scipy's method="auto" is exact
_BATCH = 500  # resamples at a time: bounds the memory, not the result


def paired_test(differences: np.ndarray) -> tuple[float, float]:
    """Test by Wilcoxon's signed ranks whether differences, one per case, are symmetric about zero.

    Returns:
        p: two-sided, of the differences that are not zero. Up to 50 of these: exact without ties; with ties, the
            distribution of the rank sum under flips of the signs, all of them up to 16 differences, else
            ``SIGN_FLIPS`` drawn ones (always the same). More than 50: the normal approximation with correction for
            ties and continuity. 1 where all differences are zero.
        rank_biserial: the matched-pairs rank-biserial correlation (Kerby 2014), from -1 (all differences negative) to 1
            (all positive); 0 where all are zero.
    """
    differences = np.asarray(differences, dtype=float)
    # Zeros first: scipy chooses between exact and approximate with them, and so takes the approximation for few others
    nonzero = differences[differences != 0]
    if not len(nonzero):
        return 1.0, 0.0
    ranks = stats.rankdata(np.abs(nonzero))
    rank_biserial = np.average(np.sign(nonzero), weights=ranks)
    tied = len(np.unique(ranks)) < len(ranks)
    if tied and len(nonzero) <= _EXACT:
        p = stats.permutation_test(
            (np.sign(nonzero) * ranks,),
            np.sum,
            permutation_type="samples",
            vectorized=True,
            n_resamples=SIGN_FLIPS,
            batch=10_000,
            random_state=np.random.default_rng(0),
        ).pvalue
    else:
        p = stats.wilcoxon(nonzero, correction=True).pvalue
    return float(p), float(rank_biserial)


def smallest_p(n_cases: int) -> float:
    """Give the smallest two-sided p-value of the exact test of so many cases: all of one sign, none zero."""
    return min(1.0, 2.0 ** (1 - n_cases))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Adjust the p-values of one family of tests so that its family-wise error keeps the level (Holm 1979).

    statsmodels has it too, with a collection of garbage in every call, which takes longer than the comparison.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(p), 0, -1) * p[order]), 1)
    return adjusted


def mean_intervals(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Compute bootstrap confidence intervals of means: bias-corrected and accelerated (BCa), cases resampled.

    Args:
        values: (rows, cases).

    Returns:
        (rows, 2): lower and upper end of each row's interval. Where all values of a row are the same, that value; NaN
        for a single case.
    """
    values = np.asarray(values, dtype=float)
    if values.shape[1] < 2:
        return np.full((len(values), 2), np.nan)
    with warnings.catch_warnings():
        # BCa divides by the spread of the values: without one it warns and gives NaN, replaced below
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy's DegenerateDataWarning is one
        interval = stats.bootstrap(
            (values,),
            np.mean,
            axis=1,
            confidence_level=1 - ALPHA,
            n_resamples=RESAMPLES,
            batch=_BATCH,
            method="BCa",
            random_state=rng,
        ).confidence_interval
    constant = np.ptp(values, axis=1, keepdims=True) == 0
    return np.where(constant, values[:, :1], np.stack([interval.low, interval.high], axis=1))


def ranking(scores: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rank, then aggregate: every case ranks the models, and the means over cases rank them again.

    Args:
        scores: (models, cases), higher is better.

    Returns:
        mean_ranks: (models,): over cases; 1 is best, ties share the mean of their places.
        ranks: (models,): places of the mean ranks; models with the same mean share the better place.
        shares: (models, places): in which share of bootstrap samples of the cases a model took which place.
    """
    per_case = stats.rankdata(-np.asarray(scores, dtype=float), axis=0)
    n_models, n_cases = per_case.shape
    resampled = np.empty((RESAMPLES, n_models))
    for start in range(0, RESAMPLES, _BATCH):
        cases = rng.integers(n_cases, size=(min(_BATCH, RESAMPLES - start), n_cases))
        resampled[start : start + _BATCH] = per_case[:, cases].mean(axis=2).T
    places = _places(resampled)
    shares = np.stack([(places == place).mean(axis=0) for place in range(1, n_models + 1)], axis=1)
    mean_ranks = per_case.mean(axis=1)
    return mean_ranks, _places(mean_ranks[None])[0], shares


def _places(mean_ranks: np.ndarray) -> np.ndarray:
    # rounded, because the same mean summed in another order differs in the last bits
    return stats.rankdata(np.round(mean_ranks, 9), method="min", axis=1).astype(int)
