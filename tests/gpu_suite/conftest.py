"""Tests of ``benchmarks/gpu_suite.py``: what a GPU shall not be the first to find out."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
pytest.importorskip("fcntl", reason="the GPU suite is for Linux, where triton is")
