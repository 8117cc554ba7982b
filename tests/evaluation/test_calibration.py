"""Temperatures: by hand, by their definition in 64 bits, and what they leave as it is."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from nnunetv2_mamba.evaluation.calibration import TEMPERATURES, at_temperature, fit_temperature, has_logits, losses


def softmax(logits):
    powers = np.exp(logits - logits.max(0))
    return powers / powers.sum(0)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def one_hot(values, n):
    return values == np.arange(n).reshape(-1, *[1] * values.ndim)


def fitted(probabilities, members, regions):
    return fit_temperature(losses(probabilities.astype(np.float32), members, regions))


# --- by hand


@pytest.mark.parametrize("regions", [False, True])
def test_nine_in_ten_that_are_right_three_times_of_four(regions):
    """ln 9 / T = ln 3 makes 0.9 the 0.75 that is true."""
    member = np.array([[True, True, True, False]])
    probabilities = np.full((1, 4), 0.9)
    if not regions:
        member, probabilities = np.concatenate((member, ~member)), np.concatenate((probabilities, 1 - probabilities))
    assert fitted(probabilities, member, regions) == pytest.approx(2, rel=1e-3)
    found = at_temperature(probabilities, 2, regions)
    np.testing.assert_allclose(found[0], 0.75, rtol=1e-6)
    sums = losses(probabilities, member, regions, (1, 2))
    by_hand = [-3 * np.log(0.9) - np.log(0.1), -3 * np.log(0.75) - np.log(0.25)]
    np.testing.assert_allclose(sums, by_hand, rtol=1e-6)


def test_regions_have_one_temperature():
    """A head that is right in 3 of 4 where it says 0.9, and one that says so twice as strongly: between 2 and 4."""
    member = np.array([[True, True, True, False]] * 2)
    probabilities = np.stack((np.full(4, 0.9), np.full(4, 81 / 82)))
    assert 2 < fitted(probabilities, member, True) < 4
    sums = losses(probabilities, member, True, (1,))
    assert sums[0] == pytest.approx(sum(losses(probabilities[i : i + 1], member[:1], True, (1,))[0] for i in (0, 1)))


def test_without_a_voxel_that_counts_probabilities_stay():
    assert fitted(np.empty((2, 0)), np.empty((2, 0), dtype=bool), False) == 1


# --- by definition


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("strength", [0.6, 1.0, 3.0])
def test_a_known_factor_of_the_logits_is_found(regions, strength):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (3, 40_000))
    if regions:
        members = rng.random(logits.shape) < sigmoid(logits)
        probabilities = sigmoid(strength * logits)
    else:
        drawn = (softmax(logits).cumsum(0) < rng.random(logits.shape[1])).sum(0)
        members, probabilities = one_hot(drawn, 3), softmax(strength * logits)
    found = fitted(probabilities, members, regions)
    assert found == pytest.approx(strength, rel=0.03)

    def definition(temperature):
        scaled = strength * logits / temperature
        if regions:
            return np.logaddexp(0, np.where(members, -scaled, scaled)).sum()
        return (np.logaddexp.reduce(scaled, axis=0) - scaled[members.argmax(0), np.arange(scaled.shape[1])]).sum()

    exact = minimize_scalar(definition, bounds=(0.1, 20), method="bounded", options={"xatol": 1e-6}).x
    assert found == pytest.approx(exact, rel=2e-3)
    # 32 bits have few digits of what a region's probability lacks to 1
    np.testing.assert_allclose(
        losses(probabilities.astype(np.float32), members, regions), [*map(definition, TEMPERATURES)], rtol=2e-4
    )
    np.testing.assert_allclose(
        at_temperature(probabilities, 2.5, regions),
        (sigmoid if regions else softmax)(strength * logits / 2.5),
        rtol=2e-5,
        atol=1e-3 if regions else 1e-12,
    )


def test_a_model_that_is_always_right_gets_the_end_of_the_range():
    member = np.array([[True, True], [False, False]])
    assert fitted(np.where(member, 0.9, 0.1), member, False) == TEMPERATURES[0]
    assert fitted(np.where(member, 0.1, 0.9), member, False) == TEMPERATURES[-1]


# --- what stays


@pytest.mark.parametrize("temperature", [0.3, 4])
def test_labels_stay(temperature):
    rng = np.random.default_rng(1)
    probabilities = softmax(rng.normal(0, 20, (5, 1000))).astype(np.float32)
    scaled = at_temperature(probabilities, temperature, False)
    np.testing.assert_array_equal(scaled.argmax(0), probabilities.argmax(0))
    np.testing.assert_allclose(scaled.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(at_temperature(probabilities, temperature, True) > 0.5, probabilities > 0.5)
    np.testing.assert_array_equal(at_temperature(probabilities, 1, False), probabilities)


def test_what_has_no_logits_stays_and_is_known():
    """Outside of its crop nnU-Net writes background 1, or 0 for every region."""
    outside = np.array([[1, 0.5], [0, 0.5], [0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(at_temperature(outside, 3, False)[:, 0], [1, 0, 0])
    assert has_logits(outside, False).tolist() == [False, True]
    regions = np.array([[0, 0.5], [0, 0]], dtype=np.float32)
    np.testing.assert_array_equal(at_temperature(regions, 3, True), regions)
    assert has_logits(regions, True).tolist() == [False, True]


def test_probabilities_that_32_bits_took_to_0_and_1_are_finite():
    probabilities, members = np.array([[1.0], [0.0]]), np.array([[False], [True]])
    assert 80 < losses(probabilities, members, False, (1,))[0] < 110
    assert losses(probabilities[:1], members[:1], True, (1,))[0] == pytest.approx(25 * np.log(2))
