"""Versions of installed packages, and of what runs from a checkout."""

from importlib.metadata import version

from nnunetv2_mamba.versions import installed_version


def test_installed_and_not():
    assert installed_version("numpy") == version("numpy")
    assert installed_version("no-such-package") == "not installed"
    assert installed_version("no-such-package", "(checkout)") == "(checkout)"
