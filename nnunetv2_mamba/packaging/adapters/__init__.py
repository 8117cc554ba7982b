"""How the platforms lay out inputs and outputs: one module each, with ``INPUT``, ``OUTPUT`` and ``find_cases``."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType


@dataclass(frozen=True)
class Case:
    """A case: its channels' files in the model's order (they need not exist) and the file to write."""

    name: str
    images: tuple[Path, ...]
    output: Path


def load(platform: str) -> ModuleType:
    """The adapter of a platform: ``find_cases(input_folder, output_folder, settings) -> list[Case]``."""
    return import_module(f"{__name__}.{platform.replace('-', '_')}")
