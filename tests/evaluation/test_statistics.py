"""The statistics against worked examples, R's output and what theory says."""

import itertools

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.statistics import holm, mean_intervals, paired_test, ranking, smallest_p

# R, ?wilcox.test: Hamilton depression scale factor of 9 patients at two visits (Hollander & Wolfe 1973, p. 29).
FIRST = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
SECOND = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
# R, ?sleep: Student's data, extra hours of sleep under two drugs.
SLEEP = (
    np.array([0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]),
    np.array([1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]),
)


def test_wilcoxon_as_r_computes_it():
    p, rank_biserial = paired_test(FIRST - SECOND)
    # wilcox.test(x, y, paired = TRUE, alternative = "greater"): V = 40, p-value = 0.01953; two-sided twice that
    assert p == pytest.approx(2 * 10 / 2**9)
    assert rank_biserial == pytest.approx((40 - 5) / 45)
    assert paired_test(SECOND - FIRST) == (p, pytest.approx(-rank_biserial))


def test_zero_differences_are_dropped():
    p, rank_biserial = paired_test((SLEEP[0] - SLEEP[1]).round(12))
    # V = 0 in R; nine differences of one sign: 2 of the 2^9 assignments of signs are as extreme
    assert p == pytest.approx(2 / 2**9)
    assert rank_biserial == -1
    assert p == pytest.approx(smallest_p(9))


def by_all_signs(differences):
    """The definition: the share of all assignments of signs to the ranks whose sum is as extreme, both tails alike."""
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    sums = np.array(list(itertools.product([-1, 1], repeat=len(ranks)))) @ ranks
    found = np.sign(nonzero) @ ranks
    return min(1, 2 * min((sums >= found).mean(), (sums <= found).mean()))


@pytest.mark.parametrize(
    ("zeros", "others", "expected"),
    [
        (9, [1, 2, 3, 4, 5], 2 / 2**5),
        (9, [1, 1, 1, 1, 1], 2 / 2**5),
        (10, [1, 1, 1, 1], 2 / 2**4),
        (45, [1, 2, 3, 4, 5, 6, 7], 2 / 2**7),
        (60, [1, 2, 3, 4, 5, 6, 7, -8], None),
        (8, [1, 1, 2, -2, 3, 3, 3], None),
        (0, [0.5, 0.5, 1, -1, 1, 2, 2, 3, -3, 4], None),
        # the sign test of 11 against 3, where the normal approximation says 0.033 and 0.035 with correction
        (3, [1] * 11 + [-1] * 3, 2 * (1 + 14 + 91 + 364) / 2**14),
    ],
)
def test_zeros_and_ties_leave_the_test_exact(zeros, others, expected):
    differences = np.array([0.0] * zeros + others)
    by_definition = by_all_signs(differences)
    assert expected is None or by_definition == pytest.approx(expected)
    for sign in (1, -1):
        assert paired_test(sign * differences)[0] == pytest.approx(by_definition)


@pytest.mark.parametrize(("wins", "losses"), [(20, 10), (24, 6), (31, 19)])
def test_many_ties_by_drawn_signs(wins, losses):
    """All of one size: the sign test, whose p is a binomial's. Four standard errors of the drawing."""
    expected = stats.binomtest(wins, wins + losses).pvalue
    differences = np.repeat([0.0, 1.0, -1.0], [30, wins, losses])
    found, _ = paired_test(differences)
    tail = expected / 2
    assert found == pytest.approx(expected, abs=2 * 4 * np.sqrt(tail * (1 - tail) / statistics.SIGN_FLIPS))
    assert paired_test(-differences)[0] == found


def test_more_than_fifty_differences():
    """The normal approximation, with correction for ties and continuity, written out."""
    differences = np.random.default_rng(3).integers(-5, 8, 90)
    nonzero = differences[differences != 0]
    ranks, counts = stats.rankdata(np.abs(nonzero)), np.unique(np.abs(nonzero), return_counts=True)[1]
    n = len(nonzero)
    assert n > 50
    variance = n * (n + 1) * (2 * n + 1) / 24 - (counts**3 - counts).sum() / 48
    away = abs(ranks[nonzero > 0].sum() - n * (n + 1) / 4) - 0.5
    assert paired_test(differences)[0] == pytest.approx(2 * stats.norm.sf(away / np.sqrt(variance)))


def test_no_difference_at_all():
    assert paired_test(np.zeros(7)) == (1, 0)


def test_infinite_ties_and_large_samples_stay_finite():
    p, rank_biserial = paired_test(np.repeat([1.0, 2.0, -1.0], 40))
    assert 0 < p < 1e-6
    assert 0 < rank_biserial < 1


def test_holm_worked_examples():
    # Holm 1979, as worked in textbooks: four hypotheses, the first and the last are rejected at 0.05
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    # R: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([]).size == 0


def test_holm_is_that_of_statsmodels(monkeypatch):
    monkeypatch.setattr("gc.collect", lambda: None)  # in every call of statsmodels'; the rest takes no time
    rng = np.random.default_rng(0)
    for size in range(1, 40):
        p_values = np.round(rng.random(size) ** 3, 2)  # ties, 0 and 1 among them
        np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)


def test_p_values_of_a_permuted_comparison_are_uniform():
    """Which model a value belongs to is drawn anew for each case: there is no difference to be found."""
    rng = np.random.default_rng(20)
    differences = rng.gamma(2, 0.01, size=(700, 40)) * rng.choice([-1, 1], size=(700, 40))
    p_values = [paired_test(row)[0] for row in differences]
    assert stats.kstest(p_values, "uniform").statistic < 1.628 / np.sqrt(700)  # the 1 % bound
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.02)


def test_intervals_contain_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(21)
    intervals = mean_intervals(rng.gamma(4, 0.25, size=(600, 30)), rng)  # of mean 1, skewed
    covered = (intervals[:, 0] <= 1) & (intervals[:, 1] >= 1)
    # 95 % is reached for many cases; 30 of a skewed distribution are known to give 1 to 3 points less
    assert 0.91 <= covered.mean() <= 0.97
    assert (intervals[:, 0] < intervals[:, 1]).all()


def test_interval_of_many_values_is_the_normal_one():
    values = np.random.default_rng(22).normal(0.8, 0.05, size=(1, 400))
    half = 1.96 * values.std(ddof=1) / 20
    expected = values.mean() + np.array([-half, half])
    assert mean_intervals(values, np.random.default_rng(0))[0] == pytest.approx(expected, abs=0.05 * half)


def test_intervals_without_spread_or_cases():
    values = np.array([[0.5, 0.5, 0.5], [0.1, 0.2, 0.6]])
    intervals = mean_intervals(values, np.random.default_rng(0))
    assert intervals[0].tolist() == [0.5, 0.5]
    assert np.isfinite(intervals[1]).all()
    assert np.isnan(mean_intervals(values[:, :1], np.random.default_rng(0))).all()


def test_ranks_are_taken_in_each_case_before_they_are_averaged():
    scores = np.array(
        [
            [0.90, 0.90, 0.90, 0.10],  # best in three cases, although it has the lowest mean
            [0.80, 0.80, 0.80, 0.80],
            [0.80, 0.70, 0.70, 0.90],
        ]
    )
    mean_ranks, ranks, shares = ranking(scores, np.random.default_rng(0))
    assert mean_ranks == pytest.approx([6 / 4, 8.5 / 4, 9.5 / 4])
    assert ranks.tolist() == [1, 2, 3]
    assert shares.sum(axis=1) == pytest.approx([1, 1, 1])
    # First in samples of four with the last case at most once, or twice and without the first case (then the third
    # model is): (3/4)^4 + 4 (1/4) (3/4)^3 + 6 (1/4)^2 (2/4)^2
    assert shares[0, 0] == pytest.approx(213 / 256, abs=0.02)


def test_equal_models_share_the_better_rank():
    mean_ranks, ranks, shares = ranking(np.array([[0.5, 0.6], [0.5, 0.6], [0.4, 0.1]]), np.random.default_rng(0))
    assert mean_ranks.tolist() == [1.5, 1.5, 3]
    assert ranks.tolist() == [1, 1, 3]
    assert shares.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
