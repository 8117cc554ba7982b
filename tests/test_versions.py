"""Versions that are kept with results."""

from importlib.metadata import version

from nnunetv2_mamba.versions import installed_version


def test_of_a_package_and_of_a_checkout_that_is_not_installed():
    assert installed_version("nnunetv2") == version("nnunetv2")
    assert installed_version("nnunetv2-mamba-as-a-checkout") == "not installed"
