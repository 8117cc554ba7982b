"""The workflows of .github, as far as they can be run here."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("bash"), reason="the workflow's steps are for bash")
def test_the_lowest_torch_is_the_one_that_is_declared(tmp_path):
    yaml = pytest.importorskip("yaml", reason="comes with nnU-Net's dependencies")
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]["steps"]
    (script,) = (step["run"] for step in steps if step.get("name") == "The lowest torch")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    environment = os.environ | {"GITHUB_ENV": str(tmp_path / "variables")}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "variables").read_text().strip() == f"PIP_CONSTRAINT={tmp_path / 'constraints.txt'}"
    constraint = Requirement((tmp_path / "constraints.txt").read_text().strip())
    declared = re.search(r'^ *"(torch\b[^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    (lowest,) = (part.version for part in Requirement(declared).specifier if part.operator == ">=")
    assert constraint.name == "torch" and constraint.specifier.contains(lowest)
    assert not constraint.specifier.contains("99.0")
