"""The statistics of a paired comparison, computed by scipy and statsmodels.

Everywhere: one value per case, cases independent of each other, a two-sided level of ``ALPHA``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from statsmodels.stats.multitest import multipletests

ALPHA = 0.05
RESAMPLES = 9999
SIGN_FLIPS = 99_999  # drawn by a test with ties, where there are not fewer of them in all
_EXACT = 50  # differences up to which scipy's method="auto" is exact
_BATCH = 500  # resamples at a time: bounds the memory, not the result


@dataclass(frozen=True)
class PairedTest:
    """A Wilcoxon signed-rank test.

    Attributes:
        p: two-sided, of the differences that are not zero. Up to 50 of these: exact without ties; with ties, the
            distribution of the rank sum under flips of the signs, all of them up to 16 differences, else
            ``SIGN_FLIPS`` drawn ones (always the same). More than 50: the normal approximation with correction for
            ties and continuity. 1 where all differences are zero.
        rank_biserial: the matched-pairs rank-biserial correlation (Kerby 2014), from -1 (all differences negative) to 1
            (all positive); 0 where all are zero.
        positive, zero, negative: how many differences are so.
    """

    p: float
    rank_biserial: float
    positive: int
    zero: int
    negative: int


def paired_test(differences: np.ndarray) -> PairedTest:
    """Test whether differences, one per case, are symmetric about zero."""
    differences = np.asarray(differences, dtype=float)
    positive, negative = int((differences > 0).sum()), int((differences < 0).sum())
    zero = len(differences) - positive - negative
    if zero == len(differences):
        return PairedTest(1.0, 0.0, 0, zero, 0)
    # Zeros first: scipy chooses between exact and approximate with them, and so takes the approximation for few others
    nonzero = differences[differences != 0]
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
    return PairedTest(float(p), float(rank_biserial), positive, zero, negative)


def smallest_p(n_cases: int) -> float:
    """The smallest two-sided p-value that the exact test of so many cases can give: all of one sign, none zero."""
    return min(1.0, 2.0 ** (1 - n_cases))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """The p-values of one family of tests, adjusted so that its family-wise error keeps the level (Holm 1979)."""
    return multipletests(p_values, alpha=ALPHA, method="holm")[1] if len(p_values) else np.array([])


def mean_intervals(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap confidence intervals of means: bias-corrected and accelerated (BCa), cases resampled.

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
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
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


@dataclass(frozen=True)
class Ranking:
    """Rank, then aggregate: every case ranks the models, and the means over cases rank them again.

    Attributes:
        mean_ranks: (models,): over cases; 1 is best, ties share the mean of their places.
        ranks: (models,): places of the mean ranks; models with the same mean share the better place.
        shares: (models, places): in which share of bootstrap samples of the cases a model took which place.
    """

    mean_ranks: np.ndarray
    ranks: np.ndarray
    shares: np.ndarray


def ranking(scores: np.ndarray, rng: np.random.Generator) -> Ranking:
    """Rank models by their scores, and see how stable the ranks are.

    Args:
        scores: (models, cases), higher is better.
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
    return Ranking(mean_ranks, _places(mean_ranks[None])[0], shares)


def _places(mean_ranks: np.ndarray) -> np.ndarray:
    # rounded, because the same mean summed in another order differs in the last bits
    return stats.rankdata(np.round(mean_ranks, 9), method="min", axis=1).astype(int)
