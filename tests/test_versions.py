"""Versions of installed packages, and of what runs from a checkout."""

import re
from importlib.metadata import version

from documentation import ROOT

from nnunetv2_mamba.versions import installed_version


def test_installed_and_not():
    assert installed_version("numpy") == version("numpy")
    assert installed_version("no-such-package") == "not installed"
    assert installed_version("no-such-package", "(checkout)") == "(checkout)"


def test_the_oldest_torch_is_one_that_was_run():
    """Before 2.6, DistributedDataParallel cannot compile what is checkpointed, nor 2.4 import it."""
    (oldest,) = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    tried = re.findall(r"^\| ([\d.]+) .*\|$", page[page.index("| torch | passed") :], re.MULTILINE)
    assert tried[0].startswith(f"{oldest}.") and tuple(map(int, oldest.split("."))) >= (2, 6)
