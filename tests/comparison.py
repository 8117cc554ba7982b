"""How close two tensors are."""

import torch


def difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is expected, in float64; infinite where ``actual`` is not finite.

    The largest single difference is decided by the voxel that rounds worst, which another build of torch moves by a
    factor of two or more; the norm says what was computed.
    """
    assert actual.shape == expected.shape
    actual, expected = actual.detach().double(), expected.detach().double()
    if not actual.isfinite().all():
        return float("inf")
    return ((actual - expected).norm() / expected.norm()).item()


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float) -> None:
    """At most ``relative`` between the two, as :func:`difference` measures it."""
    error = difference(actual, expected)
    assert error <= relative, f"relative difference {error:.2e}, at most {relative:.0e} expected"
