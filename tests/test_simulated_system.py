"""What the package does by itself, on Linux as if it were another system; see ``simulated_system.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Files, processes and memory. What computes is the same everywhere, and what starts a Python finds the real system.
OF_FILES = (
    "benchmark",
    "catalogue",
    "evaluation",
    "freesurfer",
    "memory",
    "nnunet",
    "packaging",
    "planning",
    "results",
    "test_cli.py",
    "test_doctor.py",
    "test_files.py",
    "test_image_files.py",
    "test_text.py",
    "test_troubleshooting.py",
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="simulates on Linux")
@pytest.mark.parametrize("system", ["Windows", "Darwin"])
def test_the_suite_as_if_it_ran_there(system, tmp_path):
    options = [*"-p simulated_system -p no:cacheprovider -q -rfE -m".split(), "not slow", "--basetemp", tmp_path / "t"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(TESTS / part for part in OF_FILES)],
        cwd=TESTS.parent,
        env=os.environ | {"SIMULATED_SYSTEM": system, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:]
