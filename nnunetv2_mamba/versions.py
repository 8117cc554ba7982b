"""Which version of a package is installed."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str, otherwise: str = "not installed") -> str:
    """Its version, or ``otherwise`` where there is none: a package that is run from a checkout."""
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise
