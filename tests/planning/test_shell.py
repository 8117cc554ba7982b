"""``nnunetv2_mamba plan`` in a shell, from raw data to a training by the stock trainer with the plans that it wrote."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from commands import ONE_ITERATION, run
from tiny_dataset import DATASET_ID, NAME, TinyDataset


def plan(*arguments: object) -> str:
    command = [sys.executable, "-m", "nnunetv2_mamba", "plan", "-d", str(DATASET_ID), "-np", "1", *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert result.returncode == 0, result.stdout[-5000:]
    return result.stdout


@pytest.mark.slow
def test_from_raw_data_to_a_training_by_the_stock_trainer(tiny_dataset: TinyDataset, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    folder = tmp_path / "preprocessed" / NAME

    log = plan("--network", "SegMamba", "--gpu-memory", 8, "-c", "3d_fullres")
    assert "nnUNetSegMamba8GPlans, estimated peak of allocated GPU memory" in log
    preprocessed = folder / "nnUNetPlans_3d_fullres"
    made = {file: file.stat().st_mtime_ns for file in preprocessed.iterdir()}
    assert sum(file.suffix == ".b2nd" for file in made) == 12  # six images and their labels
    assert (folder / "dataset_fingerprint.json").is_file() and (folder / "gt_segmentations").is_dir()

    log = plan("--network", "UMambaBot", "--match", "nnUNetSegMamba8GPlans", "-c", "3d_fullres")
    assert "the preprocessed data in nnUNetPlans_3d_fullres are there already" in log
    assert "nnUNetUMambaBotAsSegMamba8GPlans, estimated" in log and "nnUNetSegMamba8GPlans, estimated" in log
    assert made == {file: file.stat().st_mtime_ns for file in preprocessed.iterdir()}

    plans = json.loads((folder / "nnUNetSegMamba8GPlans.json").read_text())
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    assert architecture["network_class_name"] == "nnunetv2_mamba.architectures.SegMamba"
    training = (DATASET_ID, "3d_fullres", 0, "-p", "nnUNetSegMamba8GPlans", "-device", "cpu")
    log = run(tmp_path, "nnUNetv2_train", *training, settings="", before=ONE_ITERATION)
    assert "Epoch 0" in log and "Mean Validation Dice" in log
    assert (tiny_dataset.model_folder("nnUNetTrainer", "nnUNetSegMamba8GPlans") / "fold_0").is_dir()
