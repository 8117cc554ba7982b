"""The verb ``predict``: what it writes is what nnU-Net's command writes, and what it refuses."""

import json
import shutil

import layouts
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_dataset import NAME
from trained_model import rewrite_checkpoint_dataset

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging.model_content import read_model
from nnunetv2_mamba.packaging.network_loading import build_network, load_model


@pytest.fixture(autouse=True)
def trainers_are_found(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def folders(trained_model, tmp_path):
    """``-i``, ``-o`` and what they name."""
    images, output = layouts.flare(tmp_path / "images", trained_model.cases), tmp_path / "out"
    return ["-i", str(images), "-o", str(output), "-device", "cpu"], images, output


def test_labels_are_those_of_nnunet_and_the_rest_goes_on(trained_model, folders, capsys):
    arguments, images, output = folders
    output.mkdir()
    (output / "case_1.nii.gz").write_bytes(b"of the run before")
    (images / "case_2_0003.nii.gz").unlink()
    assert main(["predict", *arguments, "-m", str(trained_model.folder), "--continue_prediction"]) == 1
    said = capsys.readouterr()
    assert "1 of 2 cases done" in said.out and "2 fold(s), mirroring, step size 0.5" in said.out
    assert said.err.startswith("case_2: FAILED: ") and "case_2_0003.nii.gz is missing" in said.err
    assert sorted(file.name for file in output.iterdir()) == [
        *("case_0.nii.gz", "case_1.nii.gz", "dataset.json", "plans.json")
    ]
    layouts.assert_same_labels(output / "case_0.nii.gz", trained_model.references["case_0"])
    assert layouts.geometry(output / "case_0.nii.gz") == layouts.geometry(images / "case_0_0000.nii.gz")
    assert (output / "case_1.nii.gz").read_bytes() == b"of the run before"
    for name in ("dataset.json", "plans.json"):
        assert json.loads((output / name).read_text()) == json.loads((trained_model.folder / name).read_text())


def test_a_model_is_named_as_for_nnunet(trained_model, folders, monkeypatch, capsys):
    arguments, images, output = folders
    for file in images.glob("case_[12]_*"):
        file.unlink()
    monkeypatch.setenv("nnUNet_results", str(trained_model.folder.parents[1]))
    model = ["-d", NAME, "-c", "3d_fullres", "-tr", "nnUNetTrainerUMambaBot", "-p", "tinyUMambaBotPlans"]
    options = ["-f", "1", "--disable_tta", "-step_size", "1", "--precision", "bf16"]
    assert main(["predict", *arguments, *model, *options]) == 0
    assert "1 fold(s), no mirroring, step size 1" in capsys.readouterr().out
    assert (output / "case_0.nii.gz").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say which model: -m MODEL_FOLDER, or -d DATASET and -c CONFIGURATION"),
        (["-d", "1"], "say which model"),
        (["-m", "{model}", "-d", "1"], "give one or the other"),
        (["-m", "nowhere"], "nowhere does not exist"),
        (["-m", "{model}", "-f", "3"], "fold_3/checkpoint_final.pth is missing; folds with it: 0, 1"),
        (["-m", "{model}", "-step_size", "0"], "step_size must be above 0 and at most 1, got 0.0"),
        (["-m", "{model}", "-o", "{images}/case_0_0000.nii.gz"], "nothing can be written to"),
        (["-m", "{model}", "-i", "{model}"], "has no CASE_0000.nii.gz"),
        (["-m", "{model}", "-device", "mps"], "-device mps: PyTorch sees no such device here; give -device cpu"),
        (["-m", "{model}", "-device", "cuda"], "-device cuda: PyTorch sees no such device here; give -device cpu"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments, message, trained_model, folders, capsys, monkeypatch):
    for kind in (torch.cuda, torch.backends.mps):
        monkeypatch.setattr(kind, "is_available", lambda: False)
    common, images, _ = folders
    given = [argument.format(model=trained_model.folder, images=images) for argument in arguments]
    assert main(["predict", *common, *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nnunetv2_mamba predict: ") and message in line


def test_no_image_is_written_over(trained_model, folders, capsys):
    common, images, _ = folders
    shutil.copy(images / "case_0_0000.nii.gz", images / "case_0_0000_0000.nii.gz")
    assert main(["predict", *common, "-o", str(images), "-m", str(trained_model.folder)]) == 1
    assert f"{images / 'case_0_0000.nii.gz'} is an image of the input; choose another -o" in capsys.readouterr().err


def test_no_segmentation_of_the_first_model_is_written_over(second_stage, trained_model, folders, capsys):
    arguments, _, output = folders
    output.mkdir()
    shutil.copy(trained_model.references["case_0"], output / "case_0.nii.gz")
    given = ["-m", str(second_stage), "-f", "0", "-prev_stage_predictions", str(output)]
    assert main(["predict", *arguments, *given]) == 1
    said = capsys.readouterr().err
    assert f"{output / 'case_0.nii.gz'} is a segmentation of -prev_stage_predictions; choose another -o" in said
    assert (output / "case_0.nii.gz").read_bytes() == trained_model.references["case_0"].read_bytes()


def test_models_of_other_images_are_left_to_nnunet(trained_model, folders, tmp_path, capsys):
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    plans, dataset = (json.loads((model / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    (model / "dataset.json").write_text(json.dumps({**dataset, "file_ending": ".mhd"}))
    assert main(["predict", *folders[0], "-m", str(model)]) == 1
    assert "is of .mhd, images in two files each; use nnUNetv2_predict" in capsys.readouterr().err
    (model / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "Tiff3DIO"}))
    assert main(["predict", *folders[0], "-m", str(model)]) == 1
    assert "is of images that nnU-Net's Tiff3DIO reads; use nnUNetv2_predict" in capsys.readouterr().err


def test_a_fold_that_was_trained_with_other_plans_is_told(trained_model, tmp_path, capsys):
    """nnU-Net writes plans.json anew with each fold, and preprocesses for all of them by it."""
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    read_model(model, ["0", "1"], "checkpoint_final.pth")
    assert capsys.readouterr().err == ""
    file = model / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    configuration = checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"]
    configuration.update(spacing=[3.0, 1.0, 1.0], patch_size=[32, 32, 32], batch_size=7)
    configuration["architecture"]["arch_kwargs"]["scan"] = "hilbert"
    torch.save(checkpoint, file)
    content = read_model(model, ["0", "1"], "checkpoint_final.pth")
    (told,) = capsys.readouterr().err.splitlines()
    warning, changed = told.split("; train this fold again")[0].split(" than plans.json: ")
    assert warning == f"WARNING: {file} was trained with other plans"
    assert sorted(changed.split(", ")) == ["architecture", "patch_size", "spacing"]
    assert not {"plans", "dataset"} & content.checkpoints["fold_1/checkpoint_final.pth"].keys()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"background": 0, "large": 2, "small": 1}}, "the label 'large' was 2 and is 1"),
        (
            {"channel_names": dict(zip("0123", ("channel 1", "channel 0", "channel 2", "channel 3"), strict=True))},
            "the channels were ['channel 1', 'channel 0', 'channel 2', 'channel 3'] and are ['channel 0', ",
        ),
    ],
    ids=["labels", "channels"],
)
def test_a_fold_of_another_dataset_json_is_refused(trained_model, folders, tmp_path, capsys, changes, message):
    """The shapes are equal, so that its logits would be averaged with those of other labels."""
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    file = model / "fold_0" / "checkpoint_final.pth"
    rewrite_checkpoint_dataset(file, **changes)
    assert main(["predict", *folders[0], "-m", str(model), "-f", "0", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{file} was trained with another dataset.json: {message}" in line
    assert line.endswith("; train this fold again, or leave it out")


def test_a_fold_with_other_names_of_channels_is_told(trained_model, tmp_path, capsys):
    model = shutil.copytree(trained_model.folder, tmp_path / "model")
    file = model / "fold_0" / "checkpoint_final.pth"
    names = {str(channel): f"channel {channel}" for channel in range(4)}
    rewrite_checkpoint_dataset(file, channel_names={**names, "1": "T2"})
    read_model(model, ["0", "1"], "checkpoint_final.pth")
    (told,) = capsys.readouterr().err.splitlines()
    assert told == f"WARNING: {file} was trained with other names: 'T2' is 'channel 1' now"


def test_a_trainer_of_before_nnunet_2_8_builds_its_network(trained_model, tmp_path, monkeypatch):
    """By the arguments that it then had, as nnU-Net's predictor still calls it."""
    (tmp_path / "old_trainer.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "from nnunetv2.utilities.get_network_from_plans import get_network_from_plans\n\n\n"
        "class nnUNetTrainerOld(nnUNetTrainer):\n"
        "    @staticmethod\n"
        "    def build_network_architecture(name, kwargs, imports, inputs, outputs, enable_deep_supervision=True):\n"
        "        return get_network_from_plans(\n"
        "            name, kwargs, imports, inputs, outputs, deep_supervision=enable_deep_supervision\n"
        "        )\n"
    )
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    content = read_model(trained_model.folder, ["0"], "checkpoint_final.pth")
    network = load_model(content._replace(trainer="nnUNetTrainerOld")).network
    (weights,) = [checkpoint["network_weights"] for checkpoint in content.checkpoints.values()]
    loaded = network.state_dict()
    assert loaded.keys() < weights.keys()  # without the heads of deep supervision
    assert all(torch.equal(loaded[name], weights[name]) for name in loaded)


@pytest.fixture
def second_stage(trained_model, tmp_path):
    """The model, its network made anew with channels for the labels of a first model."""
    folder = shutil.copytree(trained_model.folder, tmp_path / "second")
    plans, dataset = (json.loads((folder / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (folder / "plans.json").write_text(json.dumps(plans))
    file = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["plans"] = plans
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = build_network("nnUNetTrainerUMambaBot", manager, manager.get_configuration("3d_fullres"), dataset)
    trained = checkpoint["network_weights"]
    for name, weight in network.state_dict().items():
        if weight.shape != trained[name].shape:  # layers that read the input
            trained[name] = torch.cat((trained[name], weight[:, trained[name].shape[1] :]), 1)
    torch.save(checkpoint, file)
    return folder


def test_the_second_model_of_a_cascade(second_stage, trained_model, folders, tmp_path, capsys):
    arguments, images, output = folders
    before = tmp_path / "before"
    before.mkdir()
    for name, file in trained_model.references.items():
        shutil.copy(file, before / f"{name}.nii.gz")
    (before / "case_1.nii.gz").unlink()
    layouts.truncate(before / "case_2.nii.gz")
    model = ["-m", str(second_stage), "-f", "0"]
    assert main(["predict", *arguments, *model, "-prev_stage_predictions", str(before)]) == 1
    failures = capsys.readouterr().err.splitlines()
    assert f"{before / 'case_1.nii.gz'} is missing" in failures[0]
    assert f"{before / 'case_2.nii.gz'} is damaged" in failures[1]
    theirs = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(second_stage), (0,))
    files = [str(file) for file in sorted(images.glob("case_0_*"))]
    theirs.predict_from_files_sequential(
        [files], [str(tmp_path / "theirs")], folder_with_segs_from_prev_stage=str(before)
    )
    layouts.assert_same_labels(output / "case_0.nii.gz", tmp_path / "theirs.nii.gz")
    alone = layouts.voxels(trained_model.references["case_0"])
    assert not np.array_equal(layouts.voxels(output / "case_0.nii.gz"), alone)


def test_labels_of_a_first_model_go_to_a_second_one_only(second_stage, trained_model, folders, capsys):
    arguments, _, output = folders
    assert main(["predict", *arguments, "-m", str(second_stage), "-f", "0"]) == 1
    assert "the model takes the segmentations of 3d_lowres; see -prev_stage_predictions" in capsys.readouterr().err
    before = str(output.with_name("before"))
    assert main(["predict", *arguments, "-m", str(trained_model.folder), "-prev_stage_predictions", before]) == 1
    assert "the model takes no segmentation of another model" in capsys.readouterr().err
