"""``NNUNETV2_MAMBA_SETTINGS``: read, checked, applied, told and kept."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from nnunetv2_mamba.trainers.papers import ScanGridRecipe
from nnunetv2_mamba.trainers.recipe import Recipe
from nnunetv2_mamba.trainers.settings import VARIABLE, read_settings, with_settings


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_inline_pairs(monkeypatch):
    monkeypatch.setenv(VARIABLE, "num_epochs = 7, initial_lr=1e-3,optimizer='adamw', enable_deep_supervision=false")
    expected = {"num_epochs": 7, "initial_lr": 1e-3, "optimizer": "adamw", "enable_deep_supervision": False}
    assert read_settings() == expected
    recipe = with_settings(Recipe(), read_settings())
    assert recipe == Recipe(num_epochs=7, initial_lr=1e-3, optimizer="adamw", enable_deep_supervision=False)


def test_toml_file(monkeypatch, tmp_path):
    file = tmp_path / "my settings.toml"
    file.write_text("# a comment\nnum_epochs = 7\nweight_decay = 0.5\n")
    monkeypatch.setenv(VARIABLE, str(file))
    assert read_settings() == {"num_epochs": 7, "weight_decay": 0.5}


@pytest.mark.parametrize("value", [None, "", "  "])
def test_nothing_set(monkeypatch, value):
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    assert read_settings() == {}


def test_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "absent.toml"))
    with pytest.raises(FileNotFoundError, match="absent.toml.*correct the path or unset"):
        read_settings()


@pytest.mark.parametrize("text", ["num_epochs", "num_epochs=seven", "optimizer=adamw", "num_epochs=1 save_every=2"])
def test_what_is_not_toml_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"{VARIABLE}.*is not TOML.*num_epochs=100"):
        read_settings()


def test_broken_file_is_refused(monkeypatch, tmp_path):
    (tmp_path / "broken.toml").write_text("num_epochs = \n")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "broken.toml"))
    with pytest.raises(ValueError, match="broken.toml.*is not TOML"):
        read_settings()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfen\x00u\x00m\x00", "utf-8"),  # as Windows' PowerShell writes files
        (b"num_epochs = \x80", "utf-8"),
        (b"a = " + b"[" * 3000 + b"]" * 3000, "nested too deep"),
        (b"num_epochs = " + b"9" * 5000, "digits"),
        (b" " * (1 << 20) + b"num_epochs = 1", "bytes, more than"),
    ],
)
def test_a_file_that_is_not_toml_is_named(monkeypatch, tmp_path, content, message):
    (tmp_path / "odd.toml").write_bytes(content)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "odd.toml"))
    with pytest.raises(ValueError, match=f"{VARIABLE}=.*odd.toml.* is not TOML .*{message}"):
        read_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 3000, "nested too deep"),
        ("a = " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("num_epochs = " + "9" * 5000, "digits"),
        ("num_epochs = 1}\nother = {", "braces do not match"),
    ],
)
def test_odd_pairs_are_refused_in_a_short_sentence(monkeypatch, text, message):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=f"{VARIABLE}=.* is not TOML .*{message}") as error:
        read_settings()
    assert len(str(error.value)) < 500


def test_a_file_with_a_byte_order_mark(monkeypatch, tmp_path):
    (tmp_path / "marked.toml").write_bytes(b"\xef\xbb\xbfnum_epochs = 7")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "marked.toml"))
    assert read_settings() == {"num_epochs": 7}


def test_unknown_setting_lists_the_known_ones():
    with pytest.raises(ValueError, match="learning_rate") as error:
        with_settings(Recipe(), {"learning_rate": 1})
    for entry in fields(Recipe):
        assert entry.name in str(error.value)


def test_each_recipe_has_its_own_settings():
    assert with_settings(ScanGridRecipe(), {"patches_per_axis": 5}).patches_per_axis == 5
    with pytest.raises(ValueError, match="patches_per_axis"):
        with_settings(Recipe(), {"patches_per_axis": 5})


@pytest.mark.parametrize(
    ("name", "value"),
    [("momentum", 0.5), ("mirroring", False), ("optimizer", "sgd"), ("enable_deep_supervision", True)],
)
def test_what_a_training_does_not_use_cannot_be_set(name, value):
    with pytest.raises(ValueError, match=f"unknown setting {name}; this trainer knows num_epochs"):
        with_settings(ScanGridRecipe(), {name: value})


@pytest.mark.parametrize("mirrored", [True, False])
def test_mirroring_in_training_and_prediction_can_be_switched_off(make_trainer, mirrored, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")  # augmentation in this process, where it can be looked at
    trainer = make_trainer("nnUNetTrainerSegMamba", f"mirroring={str(mirrored).lower()}")
    trainer.on_train_start()
    transforms = trainer.dataloader_train.data_loader.transforms
    names = {type(transform).__name__ for transform in transforms.transforms}
    assert ("MirrorTransform" in names) is mirrored
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    axes = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["inference_allowed_mirroring_axes"]
    assert axes == ((0, 1, 2) if mirrored else None)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("num_epochs", 0, "a whole number of at least 1"),
        ("num_epochs", 1.5, "a whole number"),
        ("num_epochs", True, "a whole number"),
        ("num_epochs", "1", "a whole number"),
        ("num_epochs", 99999999999999999999, "a whole number of at least 1 and at most 1000000"),
        ("num_epochs", 10**400, "a whole number of at least 1 and at most 1000000"),
        ("num_epochs", -1, "a whole number"),
        ("num_epochs", [1], "a whole number"),
        ("num_epochs", {"value": 1}, "a whole number"),
        ("save_every", 0, "a whole number of at least 1"),
        ("initial_lr", "fast", "a number above 0"),
        ("initial_lr", -1.0, "a number above 0"),
        ("initial_lr", 0, "a number above 0"),  # nothing would be learned
        ("initial_lr", 10**400, "a number above 0 and at most 100"),
        ("initial_lr", 1e30, "a number above 0 and at most 100"),
        ("weight_decay", True, "a number of at least 0"),
        ("gradient_clip", 0.0, "a number above 0"),  # as well
        ("gradient_clip", 10**400, "a number above 0"),
        ("momentum", float("nan"), "a number of at least 0 and at most 1"),
        ("initial_lr", float("nan"), "a number"),
        ("gradient_clip", float("inf"), "a number"),
        ("warmup_share", 1.5, "a number of at least 0 and at most 1"),
        ("optimizer", "adam", "one of 'sgd', 'adamw'"),
        ("enable_deep_supervision", 1, "true or false"),
    ],
)
def test_wrong_values_say_what_is_needed(name, value, needed):
    with pytest.raises(ValueError, match=f"{VARIABLE}: {name} must be {needed}.*got"):
        with_settings(Recipe(), {name: value})


def test_a_whole_number_is_a_number():
    assert with_settings(Recipe(), {"initial_lr": 1}).initial_lr == 1


def test_settings_reach_nnunet_the_log_and_the_checkpoint(make_trainer, tmp_path):
    lengths = "num_epochs=3, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"
    trainer = make_trainer("nnUNetTrainerSegMamba", f"{lengths}, momentum=0.5, weight_decay=0.25")
    trainer.on_train_start()
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (3, 1, 1)
    assert {group["momentum"] for group in trainer.optimizer.param_groups} == {0.5}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.25, 0.0}
    log = log_of(trainer)
    assert "num_epochs = 3  (set by you)" in log and "initial_lr = 0.01\n" in log
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)["nnunetv2_mamba_settings"]
    assert with_settings(Recipe(), saved) == trainer.recipe


def test_a_wrong_setting_stops_before_anything_is_written(make_trainer, tiny_dataset):
    with pytest.raises(ValueError, match="num_epoch;"):
        make_trainer("nnUNetTrainerSegMamba", "num_epoch=3")
    assert not list(tiny_dataset.results.iterdir())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_optimizer_can_be_chosen(make_trainer, optimizer):
    trainer = make_trainer("nnUNetTrainerMedSegMamba", f"optimizer='{optimizer}', momentum=0")
    trainer.initialize()
    assert type(trainer.optimizer).__name__.lower() == optimizer
