"""nnU-Net's search for trainers by their names."""

from __future__ import annotations

import contextlib
import io
import os
import pkgutil
import warnings
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from nnunetv2.paths import nnUNet_extTrainer
from nnunetv2.utilities.find_class_by_name import temporarily_cleanup_imports_from_path, temporarily_extend_syspath
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def find_trainer(name: str) -> type[nnUNetTrainer] | None:
    """The class that nnU-Net takes for the name, of whichever plugin comes first; None where there is none.

    Raises:
        RuntimeError: where a module cannot be imported that the search looks into, as torchvision of another PyTorch.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
            return recursive_find_trainer_class_by_name(name)
    except AssertionError:  # of a class that is no trainer
        return None
    except RuntimeError as error:
        if "Could not find requested nnunet trainer" in str(error):
            return None
        raise


@dataclass(frozen=True)
class FoundTrainers:
    """What nnU-Net's search can find under public names.

    Attributes:
        trainers: by name, with the place that it is found in: nnU-Net's package, or an entry of ``nnUNet_extTrainer``.
            A name that several places have belongs to the first, as in the search.
        problems: modules at which the search ends with an error, unless it has found the name before.
    """

    trainers: dict[str, tuple[type[nnUNetTrainer], str]]
    problems: list[str]


def all_trainers() -> FoundTrainers:
    """Look at every module that ``find_trainer`` would look at, in its order. External modules are imported anew."""
    home = import_module("nnunetv2.training.nnUNetTrainer")

    found = FoundTrainers({}, [])
    _look_into(home.__path__[0], home.__name__, "nnunetv2", found)
    for folder in (nnUNet_extTrainer.get() or "").split(os.pathsep):
        if folder.strip() and Path(folder).exists():
            with temporarily_extend_syspath(folder), temporarily_cleanup_imports_from_path(folder):
                _look_into(folder, None, folder, found)
    return found


def _look_into(folder: str, package: str | None, place: str, found: FoundTrainers) -> None:
    """nnU-Net's order: the modules of a folder, then the packages in it."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    modules = sorted(pkgutil.iter_modules([folder]), key=lambda module: module.ispkg)
    for _, name, is_package in modules:
        dotted = name if package is None else f"{package}.{name}"
        if is_package:
            _look_into(str(Path(folder, name)), dotted, place, found)
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a list is no use of what is deprecated in it
                module = import_module(dotted)
        except Exception as error:  # whatever a stranger's module may raise
            if isinstance(error, ModuleNotFoundError) and error.name == dotted:
                continue  # as the search does
            found.problems.append(
                f"{Path(folder, name)}.py, where nnU-Net's search ends: {type(error).__name__}: {error}"
            )
            continue
        for attribute in dir(module):
            try:
                value = None if attribute.startswith("_") else getattr(module, attribute, None)
            except ImportError as error:  # of a package that extends ours: it fails under this name alone
                found.problems.append(str(error))
                continue
            if isinstance(value, type) and issubclass(value, nnUNetTrainer):
                found.trainers.setdefault(attribute, (value, place))
