"""Drill: a cluster sends SIGTERM, or warns of a time limit, to the training process alone or to all its processes."""

from __future__ import annotations

import os
import signal

import pytest
from commands import run, start
from tiny_dataset import DATASET_ID, TinyDataset

TRAINER, PLANS = "nnUNetTrainerMedSegMamba", "tinyMedSegMambaPlans"
SETTINGS = "num_epochs=3, num_iterations_per_epoch=10, num_val_iterations_per_epoch=1"
TRAINING = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("name", "everyone"),
    [("SIGTERM", False), ("SIGTERM", True), ("SIGUSR2", True)],  # the last as SLURM for submitit
    ids=["SIGTERM to the process", "SIGTERM to its group", "SIGUSR2 to its group"],
)
def test_a_signal_during_training(tiny_dataset: TinyDataset, tmp_path, monkeypatch, name, everyone):
    number = signal.Signals[name]
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")  # background processes, as in a real training
    fold = tiny_dataset.model_folder(TRAINER, PLANS) / "fold_0"
    process = start(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS, start_new_session=True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "Epoch 1" in line:
            (os.killpg if everyone else os.kill)(process.pid, number)
    assert process.wait() == 128 + number, "".join(printed)[-3000:]
    assert any(f"{name}: wrote checkpoint_latest.pth in epoch 1" in line for line in printed)
    with pytest.raises(ProcessLookupError):  # no process is left behind
        os.killpg(process.pid, 0)
    assert (fold / "checkpoint_latest.pth").exists()
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS)
    assert "Epoch 0" not in log and "Epoch 1" in log and "Epoch 2" in log and "Mean Validation Dice" in log
