"""Which folds of a trainer's results folder stand for its validation: all, or all but ``fold_all``.

nnU-Net trains ``fold_all`` on every case and validates it on the same ones, which are the other folds' cases too.
"""

from __future__ import annotations

from pathlib import Path

ALL = "fold_all"
TRAINING_CASES = (
    "the validation of fold_all are the cases it was trained on: its values do not say how good it is on others"
)


def fold_folders(results: Path) -> list[Path]:
    """``fold_*``, without ``fold_all`` where another fold has a validation."""
    folders = sorted(results.glob("fold_*"))
    others = [folder for folder in folders if folder.name != ALL]
    return others if any(_validated(folder) for folder in others) else folders


def validations(results: Path) -> list[Path]:
    """The folders ``validation`` of ``fold_folders``, as far as there are such."""
    return [folder / "validation" for folder in fold_folders(results) if _validated(folder)]


def left_out(results: Path) -> str | None:
    """A sentence, where ``fold_all`` has a validation that is left out."""
    if not _validated(results / ALL) or results / ALL in fold_folders(results):
        return None
    return f"{results / ALL} is left out beside the other folds: its validation are the cases it was trained on"


def is_of_training_cases(folder: Path) -> bool:
    """Whether a folder of predictions or results is the validation of ``fold_all``."""
    return folder.resolve().parts[-2:] == (ALL, "validation")


def _validated(fold: Path) -> bool:
    return (fold / "validation").is_dir()
