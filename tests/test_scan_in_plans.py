"""A scan order goes by the plan alone: from ``plan --option`` through nnU-Net's own commands to another environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import run
from tiny_dataset import DATASET_ID, NAME, TinyDataset

TRAINER, PLANS = "nnUNetTrainerSegMamba", "nnUNetSegMambaScanHilbertPlans"
SETTINGS = "num_epochs=1, num_iterations_per_epoch=3, num_val_iterations_per_epoch=1"


def predictions(folder: Path) -> dict[str, np.ndarray]:
    """Segmentations and softmax of a folder, as they were written."""
    arrays = {file.name: np.load(file)["probabilities"] for file in sorted(folder.glob("*.npz"))}
    return arrays | {file.name: np.frombuffer(file.read_bytes(), "u1") for file in sorted(folder.glob("*.nii.gz"))}


@pytest.mark.slow
def test_a_model_scanned_along_hilberts_curve_is_the_same_elsewhere(tiny_dataset: TinyDataset, tmp_path, monkeypatch):
    command = [sys.executable, "-m", "nnunetv2_mamba", "plan", "-d", str(DATASET_ID), "--network", "SegMamba"]
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # nnU-Net's planner needs at least 1
    options = ["--option", "scan=hilbert", "-c", "3d_fullres", "-np", "1", "--no_integrity_check"]
    subprocess.run([*command, *options], cwd=tmp_path, check=True)
    plans = tiny_dataset.plans(PLANS)
    assert plans["plans_name"] == PLANS
    for configuration in plans["configurations"].values():  # smaller, for the test
        arguments = configuration["architecture"]["arch_kwargs"]
        assert arguments["scan"] == "hilbert"
        arguments |= {"features_per_stage": [8] * arguments["n_stages"], "n_tom_layers_per_stage": 1}
        configuration["batch_size"] = 2
    tiny_dataset.write_plans(PLANS, plans)

    model = ("-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres", "-f", "0")
    training = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    run(tmp_path, "nnUNetv2_train", *training, settings=SETTINGS)
    predicting = ("-i", tiny_dataset.images, "-device", "cpu", "-npp", 1, "-nps", 1, "--save_probabilities")
    here, there, by_rows = (tmp_path / name for name in ("here", "there", "by_rows"))
    run(tmp_path, "nnUNetv2_predict", *predicting, "-o", here, "-d", DATASET_ID, *model, settings="")
    run(tmp_path, "nnUNetv2_export_model_to_zip", "-d", DATASET_ID, "-o", tmp_path / "m.zip", *model, settings="")

    # Another environment, which knows the ZIP only
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (tmp_path / "elsewhere" / variable).mkdir(parents=True)
        monkeypatch.setenv(variable, str(tmp_path / "elsewhere" / variable))
    run(tmp_path, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "m.zip", settings="")
    run(tmp_path, "nnUNetv2_predict", *predicting, "-o", there, "-d", DATASET_ID, *model, settings="")
    expected, computed = predictions(here), predictions(there)
    assert len(expected) == len(list(tiny_dataset.images.iterdir()))  # of two channels: a softmax and a segmentation
    assert expected.keys() == computed.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(computed[name], array)

    # The same weights along other paths: what is compared above depends on the scan in the plan
    file = tmp_path / "elsewhere" / "nnUNet_results" / NAME / f"{TRAINER}__{PLANS}__3d_fullres" / "plans.json"
    document = json.loads(file.read_text())
    document["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["scan"] = "raster"
    file.write_text(json.dumps(document))
    run(tmp_path, "nnUNetv2_predict", *predicting, "-o", by_rows, "-d", DATASET_ID, *model, settings="")
    other = predictions(by_rows)
    assert all((other[name] != array).any() for name, array in expected.items() if name.endswith(".npz"))
