"""Files too large for the repository, beside it. Tests that need one skip where it is not, and say what it is."""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("NNUNETV2_MAMBA_TESTS_SHARED", Path(__file__).parents[2] / "shared"))


def why_absent(*names: str) -> str | None:
    """Why a test cannot have ``shared/NAMES``, or None if it can."""
    path = SHARED.joinpath(*names)
    return None if path.exists() else f"{'/'.join(names)} is not in {SHARED}, beside the repository"
