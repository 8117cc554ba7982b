"""A temperature for a network's logits, fitted on its probabilities (Guo et al., On Calibration of Modern Neural
Networks, ICML 2017).

The temperature T that is fitted has the smallest negative log-likelihood of softmax(logits / T) over all voxels that
count, exactly and not of a sample. Logarithms of probabilities are logits up to a constant of the voxel, so softmax(
log(p) / T) is the same, p^(1/T) over its sum. Each head of regions is a choice of two, p and 1 - p, and all have one T.

The likelihood is computed at ``TEMPERATURES`` while a case is in memory, and of each case these numbers are kept. Their
sums over any cases are the likelihood of these; it is convex in 1/T, so it has one minimum, which a spline through them
finds to 0.1 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.interpolate import CubicSpline

TEMPERATURES = 2.0 ** np.arange(-2, 4.25, 0.25)  # 1/4, ..., 16
_CHUNK = 1 << 15  # voxels at a time, for the processor's cache


def at_temperature(probabilities: np.ndarray, temperature: float, regions: bool) -> np.ndarray:
    """Give the probabilities ``(heads, ...)`` at a temperature; which of them is the largest, or above 1/2, stays.

    What is exactly 0 or 1 stays, too: the background outside of nnU-Net's crop, of which there are no logits, and what
    32 bits took to 1, logits of regions above 17.

    Args:
        regions: whether each head is for itself (sigmoid); else they sum to 1 (softmax).
    """
    probabilities = np.asarray(probabilities, dtype=np.float32)
    if temperature == 1:
        return probabilities
    raised = probabilities ** np.float32(1 / temperature)
    return raised / (raised + (1 - probabilities) ** np.float32(1 / temperature) if regions else raised.sum(0))


def has_logits(probabilities: np.ndarray, regions: bool) -> np.ndarray:
    """Tell of ``(heads, voxels)`` which voxels the network has seen, and not nnU-Net's crop left out."""
    return probabilities.any(0) if regions else np.count_nonzero(probabilities, axis=0) > 1


def losses(
    probabilities: np.ndarray, members: np.ndarray, regions: bool, temperatures: Sequence[float] = TEMPERATURES
) -> np.ndarray:
    """Sum the negative log-likelihood over voxels, and over heads of regions.

    A probability that 32 bits took to 0 counts as the smallest number above 0, one that they took to 1 as 1 - 2^-25.

    Args:
        probabilities: float, ``(heads, voxels)``, of voxels with logits.
        members: bool, of the same shape: what the reference says.

    Returns:
        A sum for each temperature.
    """
    sums = np.zeros(len(temperatures))
    for choices, right in _choices(probabilities, members, regions):
        for start in range(0, choices.shape[1], _CHUNK):
            logits = np.log(choices[:, start : start + _CHUNK])
            logits -= logits.max(0)
            of_right = logits[right[:, start : start + _CHUNK]].sum(dtype=np.float64)
            for number, temperature in enumerate(temperatures):
                partition = np.exp(logits / np.float32(temperature)).sum(0)
                sums[number] += np.log(partition).sum(dtype=np.float64) - of_right / temperature
    return sums


def fit_temperature(sums: np.ndarray) -> float:
    """Find the temperature where the losses, known at ``TEMPERATURES``, are smallest; at most the range's ends.

    Where no voxel counted, so that all are 0, it is 1.
    """
    if not sums.any():
        return 1.0
    spline = CubicSpline(np.log(TEMPERATURES), sums)
    turns = spline.derivative().roots(extrapolate=False)
    candidates = [*TEMPERATURES[[0, -1]], *np.exp(turns[np.isfinite(turns)])]
    return float(min(candidates, key=lambda temperature: spline(np.log(temperature))))


def _choices(probabilities: np.ndarray, members: np.ndarray, regions: bool) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give choices ``(alternatives, voxels)``, above 0, and which alternative is right."""
    probabilities = np.asarray(probabilities, dtype=np.float32)
    smallest = np.finfo(np.float32).smallest_subnormal
    if not regions:
        yield np.maximum(probabilities, smallest), members
        return
    for own, member in zip(probabilities, members, strict=True):
        rest = np.maximum(1 - own, np.float32(2**-25))
        yield np.stack((np.maximum(own, smallest), rest)), np.stack((member, ~member))
