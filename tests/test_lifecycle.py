"""A model's life with nnU-Net's own commands, each in a fresh process and in another folder than the repository."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from commands import run
from tiny_dataset import DATASET_ID, TinyDataset

TRAINER = "nnUNetTrainerMedSegMamba"
PLANS = "tinyMedSegMambaPlans"
MODEL = ("-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres", "-f", "0")
SETTINGS = "num_epochs=3, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1, save_every=1"
# The third checkpoint is the second write of checkpoint_latest.pth.
DIE_IN_THE_THIRD_CHECKPOINT = """
import io, os, signal, torch
save, calls = torch.save, []
def die_half_way(content, file):
    calls.append(file)
    if len(calls) < 3:
        return save(content, file)
    buffer = io.BytesIO()
    save(content, buffer)
    file.write(buffer.getvalue()[: buffer.tell() // 2])
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
torch.save = die_half_way
"""


run = partial(run, settings=SETTINGS)


def segmentations(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("*.nii.gz"))
    return {file.name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)) for file in files}


@pytest.mark.slow
def test_kill_resume_predict_export_install_predict(tiny_dataset: TinyDataset, tmp_path, monkeypatch):
    training = (DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    fold = tiny_dataset.model_folder(TRAINER, PLANS) / "fold_0"

    run(tmp_path, "nnUNetv2_train", *training, before=DIE_IN_THE_THIRD_CHECKPOINT, returncode=-signal.SIGKILL)
    assert (fold / "checkpoint_latest.pth").exists() and len(list(fold.glob(".partial-*"))) == 1

    log = run(tmp_path, "nnUNetv2_train", *training, "--c")
    assert "Epoch 0" not in log and "Epoch 1" in log and "Epoch 2" in log and "Mean Validation Dice" in log
    assert not list(fold.glob(".partial-*"))

    # from the model folder
    predicting = ("-i", tiny_dataset.images, "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1)
    run(tmp_path, "nnUNetv2_predict_from_modelfolder", *predicting, "-o", tmp_path / "before", "-m", fold.parent)

    best = run(tmp_path, "nnUNetv2_find_best_configuration", DATASET_ID, *MODEL, "--disable_ensembling")
    assert f"-tr {TRAINER}" in best

    run(tmp_path, "nnUNetv2_export_model_to_zip", "-d", DATASET_ID, "-o", tmp_path / "model.zip", *MODEL)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    run(tmp_path, "nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    model = ("-d", DATASET_ID, "-tr", TRAINER, "-p", PLANS, "-c", "3d_fullres")
    run(tmp_path, "nnUNetv2_predict", *predicting, "-o", tmp_path / "after", *model)

    before, after = segmentations(tmp_path / "before"), segmentations(tmp_path / "after")
    assert len(before) == len(list(tiny_dataset.images.iterdir())) // 2 and before.keys() == after.keys()
    assert any(segmentation.any() for segmentation in before.values())
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])
