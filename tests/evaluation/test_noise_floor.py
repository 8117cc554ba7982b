"""The noise floor of scores whose variances are known."""

import json

import numpy as np
import pytest

from nnunetv2_mamba.evaluation.noise_floor import NoiseFloor, Spread, noise_floor
from nnunetv2_mamba.evaluation.training_statistics import repeatability_limit
from nnunetv2_mamba.evaluation.trainings import Training


def means_of(scores):
    """``scores[model]``: a list per seed, of the folds' means; None where a fold was not trained."""
    return {
        Training(model, seed, f"fold_{fold}", frozenset({f"case_{fold}"})): mean
        for model, seeds in scores.items()
        for seed, folds in enumerate(seeds)
        for fold, mean in enumerate(folds)
        if mean is not None
    }


def test_between_seeds_variances_are_pooled():
    """Of fold 0 three seeds, of fold 1 two: variances 0.0001 (2 df) and 0.0002 (1 df)."""
    floor = noise_floor(means_of({"A": [[0.80, 0.70], [0.81, 0.72], [0.82, None]], "B": [[0.5, 0.6]]}))
    assert floor.seeds.keys() == {"A"} and floor.seeds["A"].df == floor.all_seeds.df == 3
    assert floor.seeds["A"].deviation == pytest.approx(np.sqrt((2 * 0.0001 + 0.0002) / 3))
    assert floor.all_seeds.deviation == floor.seeds["A"].deviation


def test_between_folds_what_models_have_in_common_is_taken_out():
    """The folds' difficulties are 0, 0.1 and 0.2; the rest is +-0.01 in two folds."""
    floor = noise_floor(means_of({"A": [[0.51, 0.59, 0.70]], "B": [[0.59, 0.71, 0.80]]}))
    assert floor.folds["A"].deviation == pytest.approx(np.std([0.51, 0.59, 0.70], ddof=1)) and floor.folds["A"].df == 2
    # differences -0.08, -0.12, -0.10: a variance of 0.0004, half of it of each model
    assert floor.all_folds.deviation == pytest.approx(np.sqrt(0.0004 / 2)) and floor.all_folds.df == 2
    assert floor.all_seeds is None
    assert floor.limit == pytest.approx(repeatability_limit(floor.all_folds.deviation, 2))


def test_drawn_trainings_have_the_deviation_that_they_were_drawn_with():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0.8, 0.05, 40)
    scores = {model: [list(difficulty + rng.normal(0, 0.004, 40)) for _ in range(3)] for model in "ABCDE"}
    floor = noise_floor(means_of(scores))
    assert floor.all_seeds.df == 5 * 40 * 2 and floor.all_seeds.deviation == pytest.approx(0.004, rel=0.1)
    assert floor.all_folds.df == 4 * 39 and floor.all_folds.deviation == pytest.approx(0.004, rel=0.1)
    assert all(0.03 < spread.deviation < 0.07 for spread in floor.folds.values())


def test_between_folds_it_is_of_single_trainings_where_one_fold_has_more():
    """Fold 0 has three seeds, fold 1 one: the means alone would have 2/3 of the variance."""
    rng = np.random.default_rng(1)
    floors = []
    for _ in range(2000):
        scores = {model: rng.normal(0, 0.004, (3, 2)).tolist() for model in "AB"}
        for seeds in scores.values():
            seeds[1][1] = seeds[2][1] = None
        floors.append(noise_floor(means_of(scores)))
    variance = np.mean([floor.all_folds.deviation**2 for floor in floors])
    assert variance == pytest.approx(0.004**2, rel=0.08)


def test_the_limit_is_of_the_larger_spread():
    small, large = Spread(0.001, 4), Spread(0.002, 4)
    limits = [NoiseFloor((), {}, {}, *both).limit for both in ((small, large), (large, small), (large, None))]
    assert limits == [repeatability_limit(0.002, 4)] * 3


def test_single_trainings_have_no_floor():
    floor = noise_floor(means_of({"A": [[0.5]], "B": [[0.6]]}))
    assert (floor.seeds, floor.folds, floor.limit) == ({}, {}, None)


def test_other_folds_are_not_set_against_each_other():
    means = means_of({"A": [[0.5, 0.6]]}) | {Training("B", 0, "", frozenset({"case_0", "case_1"})): 0.7}
    floor = noise_floor(means)
    assert floor.all_folds is None and floor.folds.keys() == {"A"}


def test_folds_of_one_model_alone_are_no_floor_of_all():
    """What its folds' cases do cannot be told from what the training does."""
    floor = noise_floor(means_of({"A": [[0.5, 0.6, 0.8]]}))
    assert floor.folds["A"].df == 2 and floor.all_folds is None and floor.limit is None


def test_it_is_plain_data():
    floor = noise_floor(means_of({"A": [[0.80, 0.7], [0.81, None]], "B": [[0.5, 0.6]]}))
    data = json.loads(json.dumps(floor.as_dict(), allow_nan=False))
    assert data["between_seeds"] == {"A": {"deviation": pytest.approx(0.01 / 2**0.5), "df": 1}}
    assert data["trainings"][2] == {"model": "A", "repetition": 1, "fold": "fold_0", "mean": 0.81}
    assert data["limit"] == floor.limit and data["between_folds_of_all_models"]["df"] == 1
