"""Tests of ``benchmarks/gpu_suite.py``: what a GPU shall not be the first to find out."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="session", autouse=True)
def linux() -> None:
    """Where triton is, the suite is at home: it locks and looks around as on Linux."""
    if sys.platform == "win32":
        pytest.skip("the GPU suite is for Linux, where triton is")
