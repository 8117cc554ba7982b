"""The folder of a model: what is read of its plans, folds and curves, and from which file."""

import json
import os
from pathlib import Path

import pytest
import torch
from made_up_models import results_folder, table_of

from nnunetv2_mamba.results.nnunet_log import CURVES
from nnunetv2_mamba.results.trained_model import Fold, TrainedModel, curves_of_folds, mean_curve, read_trained_model


@pytest.fixture
def folder(tmp_path):
    """Two folds with text logs of three epochs."""
    return results_folder(tmp_path, "nnUNetTrainer", table_of(), epochs=3)


def save_log(file, losses):
    torch.save({"logging": {curve.logged: losses for curve in CURVES.values()}}, file)


def test_what_the_folders_names_say(folder):
    model = read_trained_model(folder)
    assert model.dataset == "Dataset998_MadeUp" and model.name == ("nnUNetTrainer", "nnUNetPlans", "3d_fullres")
    assert [fold.name for fold in model.folds] == ["0", "1"] and model.configuration["batch_size"] == 9
    assert [fold.name for fold in read_trained_model(folder, ["fold_1"]).folds] == ["1"]
    other = read_trained_model(folder / "fold_0")
    assert (other.dataset, other.name, other.folds, other.plans) == (None, None, (), {})


def test_a_folder_is_given_from_near_it(folder, monkeypatch):
    for start, given in ((folder, "."), (folder.parent, folder.name), (folder / "fold_0", "../../" + folder.name)):
        monkeypatch.chdir(start)
        model = read_trained_model(Path(given))
        assert model.dataset == "Dataset998_MadeUp" and model.name.trainer == "nnUNetTrainer" and len(model.folds) == 2


@pytest.mark.parametrize("value", ["no", 5, [1]])
def test_versions_that_are_no_object_are_named(folder, value):
    (folder / "fold_1" / "cost.json").write_text(json.dumps({"versions": value}))
    with pytest.raises(ValueError, match="fold_1.cost.json: 'versions' must be an object; make the file again"):
        read_trained_model(folder)


@pytest.mark.parametrize("key", ["patch_size", "spacing"])
@pytest.mark.parametrize("value", [None, "x", 5, ["a"], [True], [float("nan")], [10**400]])
def test_sizes_in_plans_that_are_none_are_named(folder, key, value):
    (folder / "plans.json").write_text(json.dumps({"configurations": {"3d_fullres": {key: value}}}))
    with pytest.raises(ValueError, match=f"plans.json: '{key}' must be a list of numbers, not "):
        read_trained_model(folder).configuration  # noqa: B018


def test_curves_of_a_text_log_where_there_is_no_checkpoint(folder):
    (folder / "fold_0" / "training_log_2026_1_2_00_00_00.txt").write_text(  # continued from epoch 2
        "2026-01-02 00:00:00.000000: Epoch 2 \n2026-01-02 00:00:00.000000: train_loss -5.0 \n"
        "2026-01-02 00:00:00.000000: Pseudo dice [np.float32(0.5), 0.7] \n"
        "2026-01-02 00:00:00.000000: Epoch 3 \n2026-01-02 00:00:00.000000: train_loss -1e-3 \n"
    )
    model = read_trained_model(folder)
    first = model.folds[0].curves
    assert first["train_loss"] == {0: 0, 1: -0.1, 2: -5, 3: -0.001}
    assert first["dice"] == {0: 0, 1: 0.3, 2: pytest.approx(0.6)}  # nan: a class without voxels
    assert mean_curve([fold.curves["train_loss"] for fold in model.folds])[2] == pytest.approx((-5 - 0.2) / 2)


def test_the_final_checkpoint_holds_all_epochs(folder):
    """An earlier training's text log may have more."""
    save_log(folder / "fold_0" / "checkpoint_latest.pth", [9.0])
    save_log(folder / "fold_0" / "checkpoint_final.pth", [7.0, float("nan")])
    fold = read_trained_model(folder).folds[0]
    assert set(map(str, fold.curves.values())) == {"{0: 7.0}"} and fold.unread_checkpoint is None


def test_a_training_that_goes_on_for_longer_has_a_newer_checkpoint(folder):
    for name, losses in (("final", [7.0]), ("latest", [7.0, 8.0])):
        save_log(folder / "fold_0" / f"checkpoint_{name}.pth", losses)
        os.utime(folder / "fold_0" / f"checkpoint_{name}.pth", (len(losses), len(losses)))
    assert read_trained_model(folder).folds[0].curves["train_loss"] == {0: 7.0, 1: 8.0, 2: -0.2}


def test_a_checkpoint_with_an_empty_log_leaves_the_text_log(folder):
    save_log(folder / "fold_0" / "checkpoint_final.pth", [])
    fold = read_trained_model(folder).folds[0]
    assert fold.curves["train_loss"] == {0: 0, 1: -0.1, 2: -0.2} and fold.unread_logs == ()


@pytest.mark.parametrize("log", ["12", torch.zeros(2), [10**400], {"a": 1}, None])
def test_a_log_that_is_none_leaves_the_text_log(folder, log):
    logging = dict.fromkeys(("mean_fg_dice", "train_losses", "val_losses"), log)
    torch.save({"logging": logging}, folder / "fold_0" / "checkpoint_final.pth")
    fold = read_trained_model(folder).folds[0]
    assert fold.curves["train_loss"] == {0: 0, 1: -0.1, 2: -0.2}
    assert "checkpoint_final.pth holds no log of nnU-Net's" in fold.unread_checkpoint


def test_epochs_after_the_latest_checkpoint_are_those_of_the_text_log(folder):
    save_log(folder / "fold_0" / "checkpoint_latest.pth", [7.0, 8.0])
    assert read_trained_model(folder).folds[0].curves["train_loss"] == {0: 7.0, 1: 8.0, 2: -0.2}


def test_a_checkpoint_that_is_damaged_or_has_no_log(folder):
    (folder / "fold_0" / "checkpoint_final.pth").write_bytes(b"PK")
    torch.save({}, folder / "fold_1" / "checkpoint_final.pth")
    for fold in read_trained_model(folder).folds:
        assert f"fold_{fold.name}/checkpoint_final.pth" in fold.unread_checkpoint and fold.unread_logs == ()
        assert fold.curves["train_loss"] == {0: 0, 1: -0.1, 2: -0.2}


def test_logs_in_which_no_epoch_is_found(folder):
    (log,) = (folder / "fold_0").glob("training_log_*")
    log.write_text(log.read_text().replace("Epoch", "Round").replace("loss", "cost").replace("Pseudo", "Mean"))
    assert [fold.unread_logs for fold in read_trained_model(folder).folds] == [(log,), ()]
    save_log(folder / "fold_0" / "checkpoint_final.pth", [7.0])
    assert read_trained_model(folder).folds[0].unread_logs == ()


def test_a_curve_is_the_mean_of_those_that_have_come_so_far():
    mean = mean_curve([{0: 1.0, 1: 3.0}, {2: 5.0, 0: 2.0}])
    assert mean == {0: 1.5, 1: 3.0, 2: 5.0}
    assert list(mean) == [0, 1, 2]


def test_a_fold_with_several_seeds_counts_once():
    trainings = [
        TrainedModel(Path(), None, None, {}, {}, tuple(Fold(name, {"dice": curve}, {}, {}) for name, curve in folds))
        for folds in ([("0", {0: 1.0}), ("1", {0: 5.0})], [("0", {0: 3.0, 1: 4.0})])
    ]
    assert curves_of_folds(trainings, "dice") == [{0: 2.0, 1: 4.0}, {0: 5.0}]


def test_what_is_known_of_a_training():
    """By the benchmark's record where there is one, else by nnU-Net's."""
    debug = {"num_epochs": "5", "device": "cuda", "gpu_name": "a GPU", "torch_version": "2.9"}
    fold = Fold("0", {}, {}, debug)
    assert (fold.seed, fold.epochs, fold.hardware, fold.versions) == (None, "5", "a GPU", {"torch": "2.9"})
    fold = Fold("0", {}, {"seed": 3, "epochs": 7, "device": "another", "versions": {"torch": "3"}}, debug)
    assert (fold.seed, fold.epochs, fold.hardware, fold.versions) == (3, 7, "another", {"torch": "3"})
    assert Fold("0", {}, {}, {"device": "cpu"}).hardware == "cpu"


def test_plans_that_inherit_in_a_circle(folder):
    configurations = {"3d_fullres": {"inherits_from": "b", "batch_size": 3}, "b": {"inherits_from": "3d_fullres"}}
    (folder / "plans.json").write_text(json.dumps({"configurations": configurations}))
    assert read_trained_model(folder).configuration["batch_size"] == 3
    (folder / "plans.json").write_text(json.dumps({"configurations": []}))
    assert read_trained_model(folder).configuration == {}


@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "fold_1/cost.json", "fold_0/debug.json"])
def test_a_damaged_file_is_named(name, folder):
    (folder / name).write_text("[")
    with pytest.raises(ValueError, match=f"{name} .*; make it again or delete it"):
        read_trained_model(folder)
