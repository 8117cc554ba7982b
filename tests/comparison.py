"""How close two tensors are."""

import torch


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 2e-5) -> None:
    """Largest difference over largest expected magnitude."""
    assert actual.shape == expected.shape
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= relative, f"relative error {error:.2e}"
