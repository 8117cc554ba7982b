"""Several models in one container, and models that are refused together."""

import copy
import shutil
from pathlib import Path

import layouts
import numpy as np
import pytest
import torch

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import build_context, container
from nnunetv2_mamba.packaging.checksums import sha256
from nnunetv2_mamba.packaging.ensemble_checks import check_alike
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings, MemberChoices
from nnunetv2_mamba.packaging.model_content import read_model
from nnunetv2_mamba.temperature_file import write_temperature


@pytest.fixture(autouse=True)
def trainers_are_found(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def one_wheel(built_wheel, monkeypatch):
    monkeypatch.setattr(build_context, "write_wheel", lambda folder: Path(shutil.copy(built_wheel, folder)))


@pytest.fixture
def models(trained_model, tmp_path):
    """The model, and its first fold with other weights; the latter with a temperature, too."""
    other = shutil.copytree(trained_model.folder, tmp_path / "other")
    shutil.rmtree(other / "fold_1")
    file = other / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    (head,) = [key for key in checkpoint["network_weights"] if key.endswith("seg_layers.0.weight")]
    checkpoint["network_weights"][head] = checkpoint["network_weights"][head].flip(0)
    torch.save(checkpoint, file)
    first = shutil.copytree(trained_model.folder, tmp_path / "first")
    write_temperature(first, 3.0, {})
    write_temperature(other, 0.5, {})
    return [str(first), str(other)]


def test_a_container_says_what_predict_says(models, trained_model, one_wheel, tmp_path, capsys):
    context, output = tmp_path / "context", tmp_path / "out"
    options = ["--average", "logits", "--calibrated", "--disable_tta"]
    assert main(["package", *models, "--for", "flare", "-o", str(context), "--cpu", *options]) == 0
    assert "fold(s) 0, 1 and 1 more, averaged as logits" in capsys.readouterr().out
    assert sorted(path.name for path in (context / "model").iterdir()) == ["1", "2"]
    settings = InferenceSettings.read(context / "inference.json")
    assert settings.choices == Choices(
        ("0", "1"),
        mirroring=False,
        members=(MemberChoices("1", ("0", "1"), 3.0), MemberChoices("2", ("0",), 0.5)),
        average="logits",
    )
    readme = (context / "README.md").read_text()
    assert "It is the first of several, whose logits are averaged" in readme
    assert "1. `nnUNetTrainerUMambaBot`, `3d_fullres`, trained on" in readme
    inputs = layouts.flare(tmp_path / "inputs", {"case_0": trained_model.cases["case_0"]})
    arguments = [str(context / "inference.json"), "--input", str(inputs), "--output", str(output)]
    assert container.main([*arguments, "--weights", str(context / "model")]) == 0
    assert "2 models, 2 fold(s), no mirroring" in capsys.readouterr().out
    places = ["-i", str(inputs), "-o", str(tmp_path / "predicted"), "-device", "cpu"]
    assert main(["predict", *places, "-m", *models, *options]) == 0
    layouts.assert_same_labels(output / "case_0.nii.gz", tmp_path / "predicted" / "case_0.nii.gz")
    assert main(["predict", *places, "-m", *models, "--disable_tta"]) == 0  # the options do something
    assert not np.array_equal(
        layouts.voxels(output / "case_0.nii.gz"), layouts.voxels(tmp_path / "predicted" / "case_0.nii.gz")
    )


def test_one_model_with_a_temperature_lies_where_one_lies(models, one_wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(build_context, "try_model", lambda *_: None)
    context = tmp_path / "context"
    assert main(["package", models[1], "--for", "flare", "-o", str(context), "--cpu", "--calibrated"]) == 0
    assert (context / "model" / "plans.json").is_file()
    settings = InferenceSettings.read(context / "inference.json")
    assert settings.choices.members == (MemberChoices("", ("0",), 0.5),)
    assert "first of several" not in (context / "README.md").read_text()


def test_a_model_without_a_temperature_is_named(models, tmp_path, capsys):
    (Path(models[1]) / "temperature.json").unlink()
    arguments = ["predict", "-i", str(tmp_path), "-o", str(tmp_path / "out"), "-m", *models, "--calibrated"]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{models[1]}/temperature.json is missing: make it with nnunetv2_mamba calibrate" in line


@pytest.mark.parametrize("zipped", [False, True])
def test_a_temperature_of_other_weights_is_refused(zipped, models, one_wheel, tmp_path, capsys):
    """Trained again since; folds and checkpoints that calibrate has not recorded pass."""
    first, other = map(Path, models)
    name = "fold_0/checkpoint_final.pth"
    for recorded, refused in ((other, False), (first, True)):
        write_temperature(other, 0.5, {}, {name: sha256(recorded / name), "fold_7/checkpoint_final.pth": "0"})
        model = Path(shutil.make_archive(str(tmp_path / "zip"), "zip", tmp_path, "other")) if zipped else other
        inputs = ["-i", str(first), "-o", str(tmp_path / "out")]  # no images
        assert main(["predict", *inputs, "-m", str(model), "--calibrated"]) == 1
        assert (f"temperature.json was fitted on another {name}: " in capsys.readouterr().err) == refused
    assert (
        main(["package", str(model), "--for", "flare", "-o", str(tmp_path / "context"), "--cpu", "--calibrated"]) == 1
    )
    (line,) = capsys.readouterr().err.splitlines()
    assert "calibrate again, or leave out --calibrated" in line


def cascade(model):
    model.plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda model: model.dataset.update(channel_names={"0": "CT"}), "B/dataset.json: the channels are {0: 'CT'}, "),
        (
            lambda model: model.dataset["labels"].update(small=3),
            "B/dataset.json: the label 'small' is 3, and 2 in A/dataset.json; models that are averaged have the same",
        ),
        (
            lambda model: model.dataset["labels"].update(more=9),
            "the label 'more' is 9, and 'missing' in A/dataset.json",
        ),
        (
            lambda model: model.dataset.update(regions_class_order=[2, 1]),
            "B/dataset.json: the labels or regions_class_order come in another order than in A/dataset.json",
        ),
        (
            lambda model: model.plans.update(image_reader_writer="NibabelIOWithReorient"),
            "B/plans.json: the images are read by NibabelIOWithReorient, and by SimpleITKIO in A/plans.json",
        ),
        (cascade, "B/plans.json: '3d_fullres' is the second model of nnU-Net's cascade"),
    ],
    ids=["channels", "another value", "another label", "order", "reader", "cascade"],
)
def test_models_of_other_images_or_labels_are_named(spoil, message, trained_model):
    first = read_model(trained_model.folder, ["0"], "checkpoint_final.pth", "A")
    second = first._replace(name="B", plans=copy.deepcopy(first.plans), dataset=copy.deepcopy(first.dataset))
    second.dataset["labels"]["ignore"] = 99  # of which no network knows
    check_alike([first, second])
    spoil(second)
    with pytest.raises(ValueError, match=message):
        check_alike([first, second])
