"""Drills: a damaged checkpoint, a missing preprocessed file, a case with the wrong number of channels."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
from commands import run
from tiny_dataset import DATASET_ID, NAME, TinyDataset

TRAINER, PLANS = "nnUNetTrainerSegMamba", "tinySegMambaPlans"
SETTINGS = "num_epochs=2, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, save_every=1"
TRAINING = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")


@pytest.mark.slow
def test_damaged_checkpoint_and_wrong_channels(tiny_dataset: TinyDataset, tmp_path):
    fold = tiny_dataset.model_folder(TRAINER, PLANS) / "fold_0"
    run(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS)

    one_channel = tmp_path / "one_channel"
    one_channel.mkdir()
    shutil.copy(tiny_dataset.images / "case_0_0000.nii.gz", one_channel)
    predicting = ("-i", one_channel, "-o", tmp_path / "out", "-m", fold.parent, "-f", 0, "-device", "cpu")
    log = run(tmp_path, "nnUNetv2_predict_from_modelfolder", *predicting, settings=SETTINGS, returncode=1)
    assert "input has 1 channels, the network was built for 2; check the channel files" in log
    assert not list((tmp_path / "out").glob("*.nii.gz"))

    final = fold / "checkpoint_final.pth"
    final.write_bytes(final.read_bytes()[:-1000])
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS, returncode=1)
    assert f"{final} is damaged" in log and "Move it away" in log
    final.rename(fold / "damaged")
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, "--c", settings=SETTINGS)
    assert "Mean Validation Dice" in log and final.exists()


@pytest.mark.slow
def test_missing_preprocessed_file(tiny_dataset: TinyDataset, tmp_path, monkeypatch):
    preprocessed = tmp_path / "preprocessed"
    shutil.copytree(tiny_dataset.preprocessed, preprocessed)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed))
    broken = replace(tiny_dataset, preprocessed=preprocessed)
    run(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS)
    folder = preprocessed / NAME / broken.plans(PLANS)["configurations"]["3d_fullres"]["data_identifier"]
    for file in folder.glob("case_1*"):
        file.unlink()
    log = run(tmp_path, "nnUNetv2_train", *TRAINING, settings=SETTINGS, returncode=1)
    assert f"{folder} lacks 1 cases of the split: case_1. Preprocess again" in log and "Epoch 0" not in log
