"""What a sweep changes about any nnU-Net trainer: its budget, its seeds, its checkpoints, and how it stops."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.files import remove_left_behind, written_whole
from nnunetv2_mamba.results.folds import CHECKPOINTS
from nnunetv2_mamba.trainers.base import nnUNetTrainerMamba
from nnunetv2_mamba.trainers.preemption import TerminationRequest

from .run import Budget


def set_budget(trainer: nnUNetTrainer, budget: Budget) -> None:
    """Set the attributes that nnU-Net's loop reads, and the batch size of the plan that the trainer holds, which it
    also saves beside the model. Says so in the training log."""
    names = budget.settings()
    for name, value in names.items():
        setattr(trainer, name, value)
    if budget.batch_size is not None:
        names["batch_size"] = budget.batch_size
        trainer.configuration_manager.configuration["batch_size"] = budget.batch_size
        trainer.plans_manager.plans["configurations"][trainer.configuration_name]["batch_size"] = budget.batch_size
    if not budget.mirroring:
        names["mirroring in validation"] = False
        _validate_without_mirroring(trainer)
    if names:
        trainer.print_to_log_file("Set by nnunetv2_mamba benchmark:", names, add_timestamp=False)


def _validate_without_mirroring(trainer: nnUNetTrainer) -> None:
    validate = trainer.perform_actual_validation

    def without_mirroring(*args, **kwargs) -> None:
        trainer.inference_allowed_mirroring_axes = None  # after the last checkpoint, which keeps the trainer's own
        validate(*args, **kwargs)

    trainer.perform_actual_validation = without_mirroring


def seed_everything(*numbers: int) -> None:
    """Seed torch, numpy and random of this process from several numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_every_epoch(trainer: nnUNetTrainer, seed: int) -> None:
    """Seed at the start of each epoch from its number, so that an interrupted training goes on with the random numbers
    that it would have drawn. Worker processes of the augmentation (``nnUNet_n_proc_DA`` above 0) draw their own."""
    on_epoch_start = trainer.on_epoch_start

    def seeded() -> None:
        seed_everything(seed, trainer.current_epoch + 1)
        on_epoch_start()

    trainer.on_epoch_start = seeded


def save_checkpoints_whole(trainer: nnUNetTrainer) -> None:
    """Let a checkpoint appear under its name only when it is complete, which nnU-Net's own trainers do not, and remove
    what a killed process had not completed."""
    if isinstance(trainer, nnUNetTrainerMamba):
        return  # does both
    for name in CHECKPOINTS:
        remove_left_behind(Path(trainer.output_folder) / name)
    save_checkpoint = trainer.save_checkpoint

    def save(filename: str) -> None:
        if trainer.local_rank != 0 or trainer.disable_checkpointing:  # nothing is written
            save_checkpoint(filename)
            return
        with written_whole(Path(filename)) as partial:
            save_checkpoint(str(partial))

    trainer.save_checkpoint = save


def stop_in_order(trainer: nnUNetTrainer) -> None:
    """Let SIGTERM and a cluster's warnings (see ``trainers.preemption``) stop nnU-Net's own trainers as they stop this
    package's: with ``checkpoint_latest.pth``, from which ``--c`` repeats the epoch that was under way."""
    if isinstance(trainer, nnUNetTrainerMamba):
        return  # does so
    request = TerminationRequest()

    def stoppable(step: Callable[[dict], dict]) -> Callable[[dict], dict]:
        def checked(batch: dict) -> dict:
            request.check()
            return step(batch)

        return checked

    run_training = trainer.run_training
    trainer.train_step, trainer.validation_step = stoppable(trainer.train_step), stoppable(trainer.validation_step)
    trainer.run_training = lambda: request.obeyed_by(run_training, partial(_save_for_continuation, trainer))


def _save_for_continuation(trainer: nnUNetTrainer, signal_name: str) -> None:
    if trainer.local_rank != 0 or trainer.disable_checkpointing or not trainer.was_initialized:
        return
    epoch, whole_log = trainer.current_epoch, trainer.logger.get_checkpoint
    trainer.current_epoch = epoch - 1  # save_checkpoint writes the number of the epoch that comes next
    trainer.logger.get_checkpoint = lambda: {key: values[:epoch] for key, values in whole_log().items()}
    try:
        trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
    finally:
        trainer.current_epoch, trainer.logger.get_checkpoint = epoch, whole_log
    trainer.print_to_log_file(f"{signal_name}: wrote checkpoint_latest.pth in epoch {epoch}; --c continues")
