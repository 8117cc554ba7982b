"""``nnUNetv2_train`` in this process, with another class of trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import nnunetv2.run.run_training as nnunet
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

TrainerClass = type[nnUNetTrainer]


def run_training_command(command: Sequence[str], varied: Callable[[TrainerClass], TrainerClass]) -> None:
    """Call nnU-Net's entry point as the shell does.

    Args:
        command: ``nnUNetv2_train`` and the arguments that a user would give, for one GPU: with several, each would have
            a process of its own.
        varied: makes the class to train with of the one that nnU-Net finds under the name.
    """
    find = nnunet.recursive_find_trainer_class_by_name
    nnunet.recursive_find_trainer_class_by_name = lambda name: varied(find(name))
    arguments, sys.argv = sys.argv, list(command)
    try:
        nnunet.run_training_entry()
    finally:
        nnunet.recursive_find_trainer_class_by_name, sys.argv = find, arguments
