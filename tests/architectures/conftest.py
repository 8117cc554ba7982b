from __future__ import annotations

from pathlib import Path

import pytest
import torch

GOLDEN = Path(__file__).parents[3] / "shared" / "golden"


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def golden():
    """Load a file with outputs of the reference networks. They are not part of this repository."""

    def load(name: str) -> dict:
        if not GOLDEN.is_dir():
            pytest.skip(f"the reference outputs are not at {GOLDEN}")
        return torch.load(GOLDEN / name, weights_only=True)

    return load


def assert_close(actual: torch.Tensor, expected: torch.Tensor, relative: float = 2e-5) -> None:
    """Largest difference over largest expected magnitude."""
    assert actual.shape == expected.shape
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= relative, f"relative error {error:.2e}"
