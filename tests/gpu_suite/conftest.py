"""Tests of ``benchmarks/gpu_suite.py``: what a GPU shall not be the first to find out."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
collect_ignore_glob = ["test_*.py"] if sys.platform == "win32" else []  # the suite locks and looks around as on Linux
