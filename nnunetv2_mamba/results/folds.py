"""The folds of a model's folder: which of them stand for its validation, and the files that training leaves in each.

nnU-Net trains ``fold_all`` on every case and validates it on the same ones, which are the other folds' cases too.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from .model_names import spelled_out

ALL = "fold_all"
TRAINING_CASES = (
    "the validation of fold_all is on the cases it was trained on: its values do not say how good it is on others"
)
SUMMARY = "validation/summary.json"
DEBUG = "debug.json"
COST = "cost.json"  # ours, of a benchmark


def fold_folders(model: Path, only: Collection[str] | None = None) -> list[Path]:
    """Find the folders ``fold_*``, without ``fold_all`` where another fold has a validation.

    Args:
        model: a trainer's results folder.
        only: names of folds; None for all.
    """
    folders = sorted(folder for folder in model.glob("fold_*") if only is None or folder.name in only)
    others = [folder for folder in folders if folder.name != ALL]
    return others if any(_is_validated(folder) for folder in others) else folders


def validations(model: Path, only: Collection[str] | None = None) -> list[Path]:
    """Find the folders ``validation`` of ``fold_folders`` that are there."""
    return [folder / "validation" for folder in fold_folders(model, only) if _is_validated(folder)]


def note_on_left_out(model: Path) -> str | None:
    """Say in a sentence that the validation of ``fold_all`` is left out; None where it is not."""
    if not _is_validated(model / ALL) or model / ALL in fold_folders(model):
        return None
    return f"{model / ALL} is left out beside the other folds: its validation is on the cases it was trained on"


def is_of_training_cases(folder: Path) -> bool:
    """Tell whether a folder of predictions or results is the validation of ``fold_all``."""
    own = (ALL, "validation")  # which a link may have, or what it leads to
    return own in (spelled_out(folder).parts[-2:], folder.resolve().parts[-2:])


def _is_validated(fold: Path) -> bool:
    return (fold / "validation").is_dir()
