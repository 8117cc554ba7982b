"""What a sweep changes about any of nnU-Net's trainers: its budget and seeds, how it stops, and what it measures."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.nnunet.preemptible_training import PreemptibleTraining

from .cost import CostRecord
from .training import Training


class MeasuredTraining(PreemptibleTraining):
    """Stands in front of one of nnU-Net's trainers, in a class that ``measured`` makes of both.

    It trains by the sweep's budget and settings. Every epoch is seeded from its number, so that an interrupted training
    goes on with the random numbers that it would have drawn; worker processes of the augmentation
    (``nnUNet_n_proc_DA`` above 0) draw their own. An epoch's cost is its training and validation iterations with the
    loading of their data, without checkpoints and plots. ``cost.json`` is written last, after nnU-Net's validation.

    What it keeps has names that no trainer has, because it stands in front of strangers' trainers too.
    """

    _sweep_training: ClassVar[Training]
    _sweep_threads: ClassVar[int | None]

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ):
        if self._sweep_threads is not None:
            torch.set_num_threads(self._sweep_threads)  # nnU-Net's command has just set its own
        seed_everything(self._sweep_training.seed, 0)
        budget = self._sweep_training.budget
        changed = budget.settings()
        if budget.batch_size is not None:
            changed["batch_size"] = budget.batch_size
            plans["configurations"][configuration]["batch_size"] = budget.batch_size  # and in the copy beside the model
        super().__init__(plans, configuration, fold, dataset_json, device)
        for name, value in budget.settings().items():
            setattr(self, name, value)  # nnU-Net's loop reads them
        if not budget.mirroring:
            changed["mirroring in validation"] = False
        if budget.schedule is not None:
            changed["learning rate set anew with every"] = budget.schedule
        if changed:
            self.print_to_log_file("Set by nnunetv2_mamba benchmark:", changed, add_timestamp=False)
        self._sweep_cost = CostRecord(Path(self.output_folder), self.device, self._sweep_threads)

    @classmethod
    def user_settings(cls) -> Mapping[str, Any]:
        """Return what the sweep sets in the recipe of this package's trainers."""
        return {**cls._sweep_training.budget.settings(), **cls._sweep_training.settings}

    def configure_optimizers(self, *args: Any) -> tuple[torch.optim.Optimizer, Any]:
        optimizer, schedule = super().configure_optimizers(*args)
        return optimizer, _OncePerEpoch(schedule) if self._sweep_training.budget.schedule == "epoch" else schedule

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._sweep_iteration = 0

    def train_step(self, batch: dict) -> dict:
        if self._sweep_training.budget.schedule == "iteration":
            self.lr_scheduler.step(self.current_epoch + self._sweep_iteration / self.num_iterations_per_epoch)
            self._sweep_iteration += 1
        self._sweep_cost.look()
        return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        self._sweep_cost.look()
        return super().validation_step(batch)

    def on_epoch_start(self) -> None:
        seed_everything(self._sweep_training.seed, self.current_epoch + 1)
        super().on_epoch_start()
        self._sweep_cost.begin_epoch()

    def on_epoch_end(self) -> None:
        # before the checkpoint: an epoch in one is never missing here
        self._sweep_cost.end_epoch(self.current_epoch, self.num_iterations_per_epoch)
        super().on_epoch_end()

    def perform_actual_validation(self, *args: Any, **kwargs: Any) -> None:
        if not self._sweep_training.budget.mirroring:
            self.inference_allowed_mirroring_axes = None  # after the last checkpoint, which keeps the trainer's own
        super().perform_actual_validation(*args, **kwargs)
        self._sweep_cost.write(self, self._sweep_training)


class _OncePerEpoch:
    """A schedule of the learning rate that knows whole epochs only."""

    def __init__(self, schedule: Any):
        self._schedule = schedule

    def step(self, epoch: float) -> None:
        self._schedule.step(int(epoch))


def measured(trainer: type[nnUNetTrainer], training: Training, threads: int | None = None) -> type[MeasuredTraining]:
    """Put ``MeasuredTraining`` in front of a trainer's class.

    The new class has the trainer's name, because nnU-Net writes the name of the class into folders and checkpoints.
    """
    return type(trainer.__name__, (MeasuredTraining, trainer), {"_sweep_training": training, "_sweep_threads": threads})


def seed_everything(*numbers: int) -> None:
    """Seed torch, numpy and random of this process from several numbers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
