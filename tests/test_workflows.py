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


def test_the_source_distribution_takes_the_documentation_that_the_release_builds_before_it():
    yaml = pytest.importorskip("yaml", reason="comes with nnU-Net's dependencies")
    release = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    commands = [step.get("run", "") for step in release["jobs"]["build"]["steps"]]
    (documented,) = (place for place, command in enumerate(commands) if "OFFLINE=true mkdocs build --strict" in command)
    assert documented < commands.index("python dev.py wheels dist")
    assert "site_dir" not in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")  # it is "site" then
    assert re.search(
        r'^\[tool\.hatch\.build\.targets\.sdist\]\nartifacts = \["/site"\]',
        (ROOT / "pyproject.toml").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
