"""Drill: ``kill -9`` at random moments of training and saving; the training ends as if nothing had happened."""

from __future__ import annotations

import random
import re
import signal
import threading
import time

import pytest
import torch
from commands import run, start
from tiny_dataset import DATASET_ID, TinyDataset

TRAINER, PLANS = "nnUNetTrainerSegMamba", "tinySegMambaPlans"
KILLS = 20
EPOCHS = 40
SETTINGS = f"num_epochs={EPOCHS}, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, save_every=1"
TRAINING = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")


@pytest.mark.slow
def test_kill_at_random_moments(tiny_dataset: TinyDataset, tmp_path):
    """Every kill comes at a random moment of the epochs, each of which writes up to two checkpoints."""
    moments = random.Random(20)
    fold = tiny_dataset.model_folder(TRAINER, PLANS) / "fold_0"
    latest, epoch_reached = fold / "checkpoint_latest.pth", 0
    for _ in range(KILLS):
        resume = ("--c",) if latest.exists() else ()
        process = start(tmp_path, "nnUNetv2_train", *TRAINING, *resume, settings=SETTINGS)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.extend(process.stdout), daemon=True)  # noqa: B023
        reader.start()
        while not any("Epoch " in line for line in printed):
            assert process.poll() is None, "".join(printed)[-3000:]
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 2))
        process.kill()
        process.wait()
        reader.join()
        if latest.exists():  # whole, and never from before the last one
            epoch = torch.load(latest, weights_only=False)["current_epoch"]
            assert epoch >= epoch_reached
            epoch_reached = epoch
    assert process.returncode == -signal.SIGKILL and 0 < epoch_reached < EPOCHS
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS)
    epochs = [int(number) for number in re.findall(r"Epoch (\d+)\s", log)]
    assert epochs == list(range(epoch_reached, EPOCHS))
    assert "Mean Validation Dice" in log
    assert not list(fold.glob(".partial-*"))
    final = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    assert {len(values) for values in final["logging"].values()} == {EPOCHS}
