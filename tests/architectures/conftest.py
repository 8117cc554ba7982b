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
