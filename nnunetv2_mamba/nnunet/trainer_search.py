"""nnU-Net's search for trainers by their names."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def find_trainer(name: str) -> type[nnUNetTrainer] | None:
    """The class that nnU-Net takes for the name, of whichever plugin comes first; None where there is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
            return recursive_find_trainer_class_by_name(name)
    except (RuntimeError, AssertionError):  # the latter of a class that is no trainer
        return None
