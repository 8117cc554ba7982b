"""Drill: a cluster sends SIGTERM, to the training process alone or to all its processes."""

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
@pytest.mark.parametrize("everyone", [False, True], ids=["the process", "its group"])
def test_sigterm_during_training(tiny_dataset: TinyDataset, tmp_path, monkeypatch, everyone):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")  # background processes, as in a real training
    fold = tiny_dataset.model_folder(TRAINER, PLANS) / "fold_0"
    process = start(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS, start_new_session=True)
    printed = []
    for line in process.stdout:
        printed.append(line)
        if "Epoch 1" in line:
            (os.killpg if everyone else os.kill)(process.pid, signal.SIGTERM)
    assert process.wait() == 128 + signal.SIGTERM, "".join(printed)[-3000:]
    assert any("SIGTERM: wrote checkpoint_latest.pth in epoch 1" in line for line in printed)
    with pytest.raises(ProcessLookupError):  # no process is left behind
        os.killpg(process.pid, 0)
    assert (fold / "checkpoint_latest.pth").exists()
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS)
    assert "Epoch 0" not in log and "Epoch 1" in log and "Epoch 2" in log and "Mean Validation Dice" in log
