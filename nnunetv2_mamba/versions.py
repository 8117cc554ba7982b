"""Versions of installed packages, as they are kept with results."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str:
    """Its version, or ``"not installed"``: of this package, where it is run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
