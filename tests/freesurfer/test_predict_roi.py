"""``predict-roi`` with two models that nnU-Net has trained, and what the command refuses."""

import json
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
from commands import run
from tiny_dataset import DATASET_ID, NAME, TinyDataset

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.freesurfer import cases, two_stage

PLANS = "tinyMedSegMambaPlans"
TRAINER = "nnUNetTrainerMedSegMamba"
FOLDERS = ("-i", "in", "-o", "out", "--stage1", "one", "--stage2", "two")
run = partial(
    run, settings="num_epochs=1, num_iterations_per_epoch=60, num_val_iterations_per_epoch=1, initial_lr=3e-3"
)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--step-size", "0"), "--step-size"),
        (("--box", "96", "0", "96"), "--box"),
        (("--margin", "-1"), "--margin"),
        ((), "one"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["predict-roi", *FOLDERS, "-device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunetv2_mamba predict-roi: ") and named in line


def test_failed_cases_are_told_by_the_exit_code(monkeypatch, capsys):
    loaded, failed = [], ["blank"]
    monkeypatch.setattr(two_stage.Stage, "load", lambda folder, options: loaded.append((folder.name, options)))
    monkeypatch.setattr(cases, "predict_cases", lambda *arguments, **options: failed)
    command = ["predict-roi", *FOLDERS, "-f", "0", "all", "--step-size", "0.1667", "--disable_tta", "-device", "cpu"]
    assert main(command) == 1
    assert capsys.readouterr().err == "nnunetv2_mamba predict-roi: 1 cases failed: blank\n"
    options = two_stage.Options(["0", "all"], "checkpoint_final.pth", 0.1667, False, "cpu")
    assert loaded == [("one", options), ("two", options)]
    failed.clear()
    assert main(command) == 0


@pytest.mark.slow
def test_two_trained_models_find_and_segment(tiny_dataset: TinyDataset, tmp_path, capsys):
    """One model is both stages: its large structure is the region, in which it finds both."""
    run(tmp_path, "nnUNetv2_train", DATASET_ID, "3d_fullres", 0, "-tr", TRAINER, "-p", PLANS, "-device", "cpu")
    model = tiny_dataset.model_folder(TRAINER, PLANS)
    arguments = ["--stage1", str(model), "--stage2", str(model), "--stage1-labels", "large", "-device", "cpu"]
    arguments += ["-i", str(tiny_dataset.images), "-o", str(tmp_path / "out")]
    assert main(["predict-roi", *arguments, "--box", "14", "16", "16"]) == 0
    assert "box of 16 x 16 x 14 voxels" in capsys.readouterr().out
    _add_freesurfer_ids(model / "dataset.json")
    assert main(["predict-roi", *arguments, "-o", str(tmp_path / "ids"), "--box", "14", "16", "16"]) == 0
    agreements = []
    for file in sorted((tiny_dataset.raw / NAME / "labelsTr").iterdir()):
        truth, found, ids = (
            nibabel.load(folder / file.name) for folder in (file.parent, tmp_path / "out", tmp_path / "ids")
        )
        np.testing.assert_array_equal(found.affine, truth.affine)
        labels, found_labels = np.asanyarray(truth.dataobj), np.asanyarray(found.dataobj)
        np.testing.assert_array_equal(np.array([0, 17, 2206])[found_labels], np.asanyarray(ids.dataobj))
        agreements.append(
            2 * np.sum((labels == 1) & (found_labels == 1)) / np.sum((labels == 1) * 1 + (found_labels == 1))
        )
    assert len(agreements) == 6 and np.mean(agreements) > 0.5


def _add_freesurfer_ids(file: Path) -> None:
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "freesurfer_ids": {"large": 17, "small": 2206}}))
