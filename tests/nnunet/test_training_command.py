"""nnU-Net's entry point, called in this process, trains with the class that is put in the place of its own."""

import sys

import pytest
import torch
from nnunetv2.run import run_training
from tiny_dataset import DATASET_ID, TinyDataset

from nnunetv2_mamba.nnunet.training_command import run_training_command

COMMAND = [
    "nnUNetv2_train",
    str(DATASET_ID),
    "3d_fullres",
    "0",
    "-tr",
    "nnUNetTrainer_5epochs",
    "-p",
    "tinySegMambaPlans",
]


@pytest.fixture
def command(tiny_dataset: TinyDataset, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    threads = torch.get_num_threads()
    yield [*COMMAND, "-device", "cpu"]
    torch.set_num_threads(threads)


def test_the_varied_class_is_trained_and_nnunet_left_as_it_was(command, tiny_dataset):
    calls = []

    def varied(trainer: type) -> type:
        class Noting(trainer):
            def run_training(self) -> None:
                calls.append((trainer.__name__, self.num_epochs, self.device.type, self.fold))

            def perform_actual_validation(self, save_probabilities: bool = False) -> None:
                calls.append("validated")

        return type(trainer.__name__, (Noting,), {})

    find = run_training.recursive_find_trainer_class_by_name
    run_training_command(command, varied)
    assert calls == [("nnUNetTrainer_5epochs", 5, "cpu", 0), "validated"]
    assert (tiny_dataset.model_folder("nnUNetTrainer_5epochs", "tinySegMambaPlans") / "fold_0").is_dir()
    assert run_training.recursive_find_trainer_class_by_name is find


def test_nnunet_is_left_as_it_was_when_the_training_fails(command):
    find = run_training.recursive_find_trainer_class_by_name
    with pytest.raises(ZeroDivisionError):
        run_training_command(command, lambda trainer: 1 / 0)
    assert run_training.recursive_find_trainer_class_by_name is find
