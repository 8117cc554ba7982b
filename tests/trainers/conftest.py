"""Trainers on the tiny data set."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_dataset import TinyDataset

from nnunetv2_mamba import trainers
from nnunetv2_mamba.architectures import SegMamba

SHORT = "num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"
MakeTrainer = Callable[..., nnUNetTrainer]


@pytest.fixture
def make_trainer(tiny_dataset: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """Construct a trainer, by class or name, as ``nnUNetv2_train`` does."""
    torch.set_num_threads(1)

    def make(trainer: type[nnUNetTrainer] | str, settings: str = SHORT, plans: str = "", **kwargs) -> nnUNetTrainer:
        monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", settings)
        if isinstance(trainer, str):
            trainer = getattr(trainers, trainer)
        network = getattr(trainer, "network_class", SegMamba)
        plans = plans or f"tiny{network.__name__}Plans"
        arguments = {"configuration": "3d_fullres", "fold": 0, "dataset_json": tiny_dataset.dataset_json(), **kwargs}
        document = {**tiny_dataset.plans(plans), "continue_training": False}
        return trainer(plans=document, device=torch.device("cpu"), **arguments)

    return make
