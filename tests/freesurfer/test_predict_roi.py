"""``predict-roi`` with two models that nnU-Net has trained, and what the command refuses."""

import json
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from commands import run
from subjects import LIA
from tiny_dataset import DATASET_ID, NAME, TinyDataset
from two_stage_fakes import FakePredictor, scene

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.freesurfer import folder_prediction, two_stage

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
        (("--box", "96", "nan", "96"), "--box"),
        (("--margin", "-1"), "--margin"),
        (("--margin", "inf"), "--margin"),
        (("--step-size", "nan"), "--step-size"),
        (("-device", "mps"), "-device mps: PyTorch sees no such device here; give -device cpu"),
        ((), "one"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert main(["predict-roi", *FOLDERS, "-device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunetv2_mamba predict-roi: ") and named in line


@pytest.mark.parametrize(
    ("content", "arguments", "said"),
    [
        (
            {"fold_0/checkpoint_final.pth": ""},
            ("-f", "1"),
            "one/fold_1/checkpoint_final.pth is missing",
        ),
        (
            {"fold_0/checkpoint_final.pth": ""},
            ("-f", "x"),
            "one/fold_x/checkpoint_final.pth is missing; folds",
        ),
        ({"fold_0_old/checkpoint_final.pth": ""}, (), "one has no fold_0, fold_1, ... with checkpoint_final.pth"),
        ({"fold_0/checkpoint_best.pth": ""}, (), "one has no fold_0, fold_1, ... with checkpoint_final.pth"),
        ({"fold_all/checkpoint_final.pth": "", "dataset.json": "{,"}, (), "one/dataset.json is no valid JSON"),
        ({"fold_0/checkpoint_final.pth": "", "dataset.json": "{,"}, (), "one/dataset.json is no valid JSON"),
        ({"fold_0/checkpoint_final.pth": "", "plans.json": "[]"}, (), "one/plans.json holds no JSON object"),
        ({"fold_0/checkpoint_final.pth": "", "dataset.json": "{}"}, (), "plans.json"),
    ],
)
def test_what_is_no_model_is_one_line(content, arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _write_model(tmp_path / "one", content)
    assert main(["predict-roi", *FOLDERS, "-device", "cpu", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_what_nnunet_cannot_load_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(two_stage, "_check_documents", lambda folder: None)
    _write_model(
        tmp_path / "one", {"fold_0/checkpoint_final.pth": "no weights", "dataset.json": "{}", "plans.json": "{}"}
    )
    assert main(["predict-roi", *FOLDERS, "-device", "cpu"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "predict-roi: one is no model that nnU-Net can load: " in line


def _write_model(folder, content):
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def test_an_input_is_not_written_over(tmp_path, monkeypatch, capsys):
    stages = {
        "one": two_stage.Stage(FakePredictor({"left": 1, "right": 2})),
        "two": two_stage.Stage(FakePredictor({"left": 1, "right": 2})),
    }
    monkeypatch.setattr(two_stage.Stage, "load", lambda folder, *choices, **options: stages[folder.name])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    file = tmp_path / "in" / "pat.nii.gz"
    nibabel.save(nibabel.Nifti1Image(scene(), LIA), file)
    before = file.read_bytes()
    command = ["predict-roi", *FOLDERS, "--stage1-labels", "left", "right", "--margin", "2", "-device", "cpu"]
    assert main([*command, "-o", "in"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "-o in is the folder of the images" in line and file.read_bytes() == before
    assert main(command) == 0
    assert set(np.unique(nibabel.load("out/pat.nii.gz").dataobj)) == {0, 1, 2} and file.read_bytes() == before


def test_failed_cases_are_told_by_the_exit_code(monkeypatch, capsys):
    loaded, failed = [], ["blank"]
    monkeypatch.setattr(two_stage.Stage, "load", lambda *choices, **options: loaded.append((*choices, options)))
    monkeypatch.setattr(folder_prediction, "predict_cases", lambda *arguments, **options: failed)
    command = ["predict-roi", *FOLDERS, "-f", "0", "all", "--step-size", "0.1667", "--disable_tta", "-device", "cpu"]
    assert main(command) == 1
    assert capsys.readouterr().err == "nnunetv2_mamba predict-roi: 1 cases failed: blank\n"
    options = {"tile_step_size": 0.1667, "use_mirroring": False, "device": torch.device("cpu")}
    assert loaded == [(Path(name), ["0", "all"], "checkpoint_final.pth", options) for name in ("one", "two")]
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
