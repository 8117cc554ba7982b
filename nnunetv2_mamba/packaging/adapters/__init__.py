"""How the platforms lay out inputs and outputs: one module each, with ``INPUT``, ``OUTPUT`` and ``find_cases``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Case:
    """A case: its channels' files in the model's order (they need not exist) and the file to write.

    Attributes:
        problem: why it cannot be segmented, where that is known from the names of the files; it names the file.
    """

    name: str
    images: tuple[Path, ...]
    output: Path
    problem: str = ""


def load(platform: str) -> ModuleType:
    """The adapter of a platform: ``find_cases(input_folder, output_folder, settings) -> list[Case]``."""
    return import_module(f"{__name__}.{platform.replace('-', '_')}")


def visible(folder: Path) -> list[Path]:
    """What is in a folder, in order, without hidden files: macOS leaves a ``._CASE`` beside each it copies.

    Raises:
        OSError: for a folder that cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def strays(files: Iterable[Path], wanted: str) -> list[Case]:
    """Those files that are NIfTI images, in any letter case, as cases that fail: nobody is to miss them in silence."""
    return [
        Case(file.name, (file,), Path(), f"{file} is not {wanted}") for file in files if ".nii" in file.name.lower()
    ]
