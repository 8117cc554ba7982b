"""Tests over trainings: scipy's where they are the same; how often they find what is not there, and what is."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nnunetv2_mamba.evaluation.training_statistics import over_folds, over_seeds, repeatability_limit

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "null_experiment.py"


@pytest.fixture(scope="module")
def null_experiment():
    specification = importlib.util.spec_from_file_location("null_experiment", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_over_folds_is_the_t_test_of_the_folds():
    rows = np.random.default_rng(0).normal(0.002, 0.01, (7, 5))
    found, expected = over_folds(rows), stats.ttest_1samp(rows, 0, axis=1)
    interval = expected.confidence_interval()
    for own, other in zip(found, (rows.mean(1), interval.low, interval.high, expected.pvalue, 4), strict=True):
        assert own == pytest.approx(other, rel=1e-6)


def test_over_seeds_without_variation_of_cases_is_welchs_test():
    """Every case of a training has the same score: nothing but the trainings varies."""
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.8, 0.01, 4), rng.normal(0.81, 0.03, 4)
    found = over_seeds([(np.tile(first, (10, 1)), np.tile(second, (10, 1)))])
    expected = stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval()
    assert found.p == pytest.approx(expected.pvalue) and found.df == pytest.approx(expected.df)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))


@pytest.mark.parametrize(("seeds", "df"), [((3, 3), 4), ((2, 5), 2), ((30, 30), 19)])
def test_over_seeds_without_variation_of_trainings_has_the_variance_of_the_paired_t_test(seeds, df):
    """All seeds alike, so only the cases vary; that the trainings do not is known from the seeds alone."""
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.8, 0.03, (2, 20))
    found = over_seeds([tuple(np.repeat(v[:, None], n, axis=1) for v, n in zip((first, second), seeds, strict=True))])
    expected = stats.ttest_rel(first, second)
    assert found.df == pytest.approx(df)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(expected.statistic), df))


def test_degrees_of_freedom_of_the_seeds_of_all_folds():
    """Twice those of the model with fewer: 1 + 3 and 2 + 1."""
    values = np.random.default_rng(2).normal(0.8, 0.03, 20)[:, None]
    folds = [(np.repeat(values, n, axis=1), np.repeat(1 - values, m, axis=1)) for n, m in ((2, 3), (4, 2))]
    assert over_seeds(folds).df == pytest.approx(2 * 3)


def test_the_variance_over_seeds_is_that_of_the_mean_difference():
    """Drawn with known variances of training, case x model and rest; two folds of unlike sizes, unlike seeds."""
    rng = np.random.default_rng(3)
    sizes, repetitions = [(12, 2, 3), (20, 4, 2)], 10_000
    folds = []
    for cases, *seeds in sizes:
        folds.append(
            tuple(
                rng.normal(0, 0.004 * (model + 1), (repetitions, 1, n))
                + rng.normal(0, 0.02, (repetitions, cases, 1))
                + rng.normal(0, 0.01, (repetitions, cases, n))
                for model, n in enumerate(seeds)
            )
        )
    found = over_seeds(folds)
    variance = ((found.high - found.mean) / stats.t.ppf(0.975, found.df)) ** 2
    assert variance.mean() == pytest.approx(found.mean.var(), rel=0.04)
    assert 0.02 < (found.p <= 0.05).mean() < 0.055


@pytest.mark.parametrize(
    ("case", "rest", "variance"), [(0.05, 0.03, (0.05**2 - 0.03**2) / 3), (0.03, 0.05, 0.0), (0.0, 0.0, 0.0)]
)
def test_the_rest_is_taken_out_of_the_variance_of_cases(case, rest, variance):
    """Of the first model +-case in two of three cases and +-rest within them; of the second nothing varies.

    The differences have a variance of case^2 over cases, the rest a mean square of 2 rest^2 with 2 degrees of freedom.
    """
    signs = np.array([[1.0], [-1.0], [0.0]])
    first = 0.8 + case * signs + rest * signs * np.array([1.0, -1.0])
    found = over_seeds([(first, np.full((3, 2), 0.7))])
    assert found.mean == pytest.approx(0.1)
    assert found.df == pytest.approx(2)  # of the cases alone, or, where nothing varies, twice those of the seeds
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 2) * variance**0.5, abs=1e-10)


def test_no_variation_at_all():
    for values, p in (((0.5, 0.5), 1), ((0.5, 0.25), 0)):
        block = tuple(np.full((4, 2), value) for value in values)
        for found in (over_seeds([block]), over_folds(np.full(3, values[0] - values[1]))):
            assert (found.p, found.low, found.high) == (p, found.mean, found.mean)
            assert found.mean == values[0] - values[1]


def test_sums_in_another_order_are_no_difference():
    values = np.array([0.1, 0.2, 0.3])
    differences = np.array([values.sum() - values[::-1].sum(), 0.0])
    assert differences[0] != 0 and over_folds(differences).p == 1


def test_repeatability_limit():
    # 2.8 standard deviations, as ISO 5725-6 rounds 1.96 times the root of 2
    assert repeatability_limit(1.0, 1e9) == pytest.approx(2.77, abs=0.01)
    assert repeatability_limit(0.5, 4) == pytest.approx(2.776445 * 2**0.5 * 0.5)
    drawn = np.random.default_rng(4).normal(0, 0.3, (100_000, 5))
    limits = stats.t.ppf(0.975, 2) * 2**0.5 * drawn[:, 2:].std(axis=1, ddof=1)
    assert repeatability_limit(drawn[0, 2:].std(ddof=1), 2) == pytest.approx(limits[0])
    assert (abs(drawn[:, 0] - drawn[:, 1]) < limits).mean() == pytest.approx(0.95, abs=0.003)


REPETITIONS = 400
# So many of 400 are significant with a probability below 0.001 where the level is 5 %
MOST = stats.binom.ppf(0.999, REPETITIONS, 0.05)
# Shares that a difference of three standard deviations of the training is found in, at least
POWER = {
    "5 folds, 1 seed": 0.8,
    "1 fold, 3 seeds": 0.5,
    "5 folds, 1 seed, and 2 more on fold 0": 0.8,
    "1 fold, 5 seeds": 0.9,
}

OLD = {0.003: 20, 0.01: 55}  # significant over cases, of 100 repetitions, at least; by the standard deviation


@pytest.mark.parametrize("training_sd", OLD)
@pytest.mark.parametrize("design", POWER)
def test_a_network_is_no_better_than_itself(design, training_sd, null_experiment):
    """The null experiment: the same trainer with other seeds. The test over cases is significant far more often."""
    rng = np.random.default_rng(5)
    seeds, alike = null_experiment.DESIGNS[design], null_experiment.Spread(training_sd, training_sd)
    same = null_experiment.simulate(seeds, REPETITIONS, 0.0, alike, rng)
    found = np.count_nonzero(null_experiment.p_over_trainings(same) <= 0.05)
    assert found <= MOST
    over_cases = null_experiment.p_over_cases([(first[:100], second[:100]) for first, second in same])
    assert np.count_nonzero(over_cases <= 0.05) >= OLD[training_sd]
    different = null_experiment.simulate(seeds, REPETITIONS, 3 * training_sd, alike, rng)
    assert (null_experiment.p_over_trainings(different) <= 0.05).mean() >= POWER[design]


def test_more_of_the_long_run(null_experiment):
    """Of 3,000 repetitions no more than five of a hundred, but for three standard errors: networks that vary unlike."""
    for seeds in null_experiment.DESIGNS.values():
        for spread in (null_experiment.Spread(0.005, 0.005), null_experiment.UNLIKE):
            same = null_experiment.simulate(seeds, 3_000, 0.0, spread, np.random.default_rng(6))
            assert (null_experiment.p_over_trainings(same) <= 0.05).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 3_000)


def test_a_network_with_two_seeds_beside_five_is_no_better_than_itself(null_experiment):
    spread = null_experiment.Spread(0.005, 0.005)
    ((first, second),) = null_experiment.simulate((5,), 3_000, 0.0, spread, np.random.default_rng(7))
    assert (over_seeds([(first[..., :2], second)]).p <= 0.05).mean() <= 0.05
