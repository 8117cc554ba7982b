"""Packages that extend this one, found by their entry points (``docs/extending.md``).

Nothing else names code that is to be imported: plans and checkpoints find what is installed, by its name.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points

PARTS = "nnunetv2_mamba.architectures"  # modules that register networks, mixers and scan orders
TRAINERS = "nnunetv2_mamba.trainers"  # trainers, by the names for -tr

PROBLEMS: dict[str, str] = {}  # by entry point of PARTS: why what it registers is missing


def module_of_caller() -> str:
    """The module whose code called the function that asks: what registers a network or a scan order."""
    return sys._getframe(2).f_globals["__name__"]


def load_parts() -> None:
    """Import the modules of ``PARTS``.

    One that fails is warned of and remembered in ``PROBLEMS``: it must not take the other networks away.
    """
    for entry in entry_points(group=PARTS):
        had_trainers = TRAINERS in sys.modules
        try:
            import_module(entry.module)
        except Exception as error:  # whatever an import may raise
            _warn(entry, f"{type(error).__name__}: {error}")
        else:
            if TRAINERS in sys.modules and not had_trainers:
                _warn(entry, f"it imports {TRAINERS}, before its networks have trainers; do that in another module")


def leave_out(module: str, reason: str) -> bool:
    """Warn of what a module has registered and nothing can be made of, as ``load_parts`` does of one that fails.

    Returns:
        Whether it is a part of another package.
    """
    of_package = [entry for entry in entry_points(group=PARTS) if _same_package(entry.module, module)]
    if of_package:
        _warn(next((entry for entry in of_package if entry.module == module), of_package[0]), reason)
    return bool(of_package)


def installed_trainers() -> dict[str, EntryPoint]:
    """Return the entry points of ``TRAINERS`` by name, none of which is imported.

    Raises:
        ValueError: naming the packages, if two give the same name.
    """
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=TRAINERS):
        if entry.name in found:
            raise ValueError(
                f"two packages have a trainer {entry.name}: {package_of(found[entry.name])} and {package_of(entry)}; "
                "uninstall one of them"
            )
        found[entry.name] = entry
    return found


def load_trainer(entry: EntryPoint) -> type:
    """Import a trainer.

    Raises:
        ImportError: naming the package, if it cannot be imported or nnU-Net would not find its results again.
    """
    try:
        trainer = entry.load()
    except Exception as error:  # whatever an import may raise
        raise ImportError(_of_trainer(entry, f"cannot be loaded: {type(error).__name__}: {error}")) from error
    if not isinstance(trainer, type):
        raise ImportError(_of_trainer(entry, "is no class; its entry point must be MODULE:CLASS"))
    if trainer.__name__ != entry.name:  # which folders of results and checkpoints have
        raise ImportError(_of_trainer(entry, f"is the class {trainer.__name__}; its entry point must have that name"))
    return trainer


def _of_trainer(entry: EntryPoint, what: str) -> str:
    return f"the trainer {entry.name} of {package_of(entry)} ({entry.value}) {what}"


def package_with(module: str) -> str | None:
    """Return name and version of the package whose part lies beside a module; None where there is no such package."""
    for entry in entry_points(group=PARTS):
        if _same_package(entry.module, module):
            return package_of(entry)
    return None


def _same_package(module: str, other: str) -> bool:
    return module.split(".")[0] == other.split(".")[0]


def package_of(entry: EntryPoint) -> str:
    """Return name and version of the package that an entry point belongs to."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value


def _warn(entry: EntryPoint, reason: str) -> None:
    PROBLEMS[f"{package_of(entry)}: {entry.module}"] = reason
    warnings.warn(
        f"networks, mixers and scan orders of {package_of(entry)} are missing, its module {entry.module} cannot be "
        f"loaded: {reason}",
        RuntimeWarning,
        stacklevel=3,
    )
