"""Drill: the disk with the results is full when a checkpoint is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import run
from tiny_dataset import DATASET_ID, TinyDataset

TRAINER, PLANS = "nnUNetTrainerSegMamba", "tinySegMambaPlans"
SETTINGS = "num_epochs=4, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1, save_every=1"
TRAINING = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
# Fills the results' file system, but for a little, before the third checkpoint.
FILL_THE_DISK = """
import os, torch
save, calls = torch.save, []
def save_on_a_full_disk(content, file):
    calls.append(file)
    if len(calls) == 3:
        folder = os.environ["nnUNet_results"]
        space = os.statvfs(folder)
        with open(os.path.join(folder, "filler"), "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, space.f_bavail * space.f_frsize - 100_000)
    save(content, file)
torch.save = save_on_a_full_disk
"""


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 MB; needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if not sys.platform.startswith("linux") or mount is None:
        pytest.skip("needs Linux's tmpfs")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"may not mount a small file system here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_full_disk(tiny_dataset: TinyDataset, tmp_path, monkeypatch, small_disk):
    monkeypatch.setenv("nnUNet_results", str(small_disk))
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS, before=FILL_THE_DISK, returncode=1)
    assert "cannot write the checkpoint" in log and "make room" in log
    (fold,) = small_disk.glob("*/*/fold_0")
    assert not list(fold.glob(".partial-*"))
    for checkpoint in fold.glob("checkpoint_*.pth"):
        assert torch.load(checkpoint, weights_only=False)["current_epoch"] >= 1
    (small_disk / "filler").unlink()
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS)
    assert "Epoch 0" not in log and "Mean Validation Dice" in log
