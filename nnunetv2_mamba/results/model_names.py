"""How models are called: by nnU-Net in the names of its folders, and for short where several stand side by side."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


def spelled_out(path: Path) -> Path:
    """Write a path without ``.`` and ``..``, so that its parts are names; links stay, as they may have the names."""
    return Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute leaves the dots)


class ModelName(NamedTuple):
    """The parts of the name that nnU-Net gives a model's folder, ``TRAINER__PLANS__CONFIGURATION``."""

    trainer: str
    plans: str
    configuration: str

    @property
    def folder(self) -> str:
        return "__".join(self)

    @classmethod
    def of_folder(cls, path: Path) -> ModelName | None:
        """Split the name of a folder; None where the path is no folder of a model with a fold in it."""
        parts = spelled_out(path).name.split("__")
        return cls(*parts) if len(parts) == 3 and any(path.glob("fold_*")) else None


def short_names(paths: Sequence[Path]) -> list[str]:
    """Name models by what differs of trainer, plans and configuration, other paths by the name of the folder or file.

    Raises:
        ValueError: if two get the same name.
    """
    models = [ModelName.of_folder(path) for path in paths]
    if all(models):
        differing = [place for place, values in enumerate(zip(*models, strict=True)) if len({*values}) > 1] or [0]
        names = [", ".join(model[place] for place in differing) for model in models]
        # SegMamba is enough for nnUNetTrainerSegMamba; nnUNetTrainer_5epochs stays
        names = [re.sub(r"^nnUNetTrainer(?=[A-Z])", "", name) for name in names]
    else:
        spelled = map(spelled_out, paths)
        names = [_own_name(path) for path in spelled]
    if len(set(names)) < len(names):
        raise ValueError(
            f"several results would be called the same ({', '.join(names)}): give --names, one for each; the same name "
            "twice for repetitions of one model, such as seeds"
        )
    return names


def _own_name(path: Path) -> str:
    if path.name == "evaluation.csv":
        return path.parent.name
    return path.stem if path.suffix == ".csv" else path.name
