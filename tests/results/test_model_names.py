"""nnU-Net's names of folders, and the short ones of reports."""

from pathlib import Path

import pytest
from nnunetv2.utilities.file_path_utilities import (
    convert_identifier_to_trainer_plans_config,
    convert_trainer_plans_config_to_identifier,
)

from nnunetv2_mamba.results.model_names import ModelName, short_names

NAME = ModelName("nnUNetTrainer", "nnUNetPlans", "3d_fullres")


def model_folder(base, trainer="nnUNetTrainer", plans="nnUNetPlans", configuration="3d_fullres"):
    folder = base / ModelName(trainer, plans, configuration).folder
    (folder / "fold_0").mkdir(parents=True)
    return folder


def test_nnunets_name_of_a_folder(tmp_path):
    assert NAME.folder == convert_trainer_plans_config_to_identifier(*NAME)
    assert NAME == tuple(convert_identifier_to_trainer_plans_config(NAME.folder))
    assert ModelName.of_folder(model_folder(tmp_path)) == NAME
    for other in ("a__b__c", "a__b", "a__b__c__d"):
        (tmp_path / other).mkdir()
        assert ModelName.of_folder(tmp_path / other) is None


def test_short_names_say_what_differs(tmp_path):
    first = model_folder(tmp_path)
    second, third = (model_folder(tmp_path, name) for name in ("nnUNetTrainerSegMamba", "nnUNetTrainer_5epochs"))
    assert short_names([first, second]) == ["nnUNetTrainer", "SegMamba"]
    assert short_names([first, third])[1] == "nnUNetTrainer_5epochs"
    planned = model_folder(tmp_path, "nnUNetTrainerSegMamba", "Large")
    assert short_names([first, second, planned])[2] == "SegMamba, Large"
    assert short_names([second, planned]) == ["nnUNetPlans", "Large"]


def test_short_names_of_other_paths(tmp_path, monkeypatch):
    (tmp_path / "predictions").mkdir()
    paths = [tmp_path / "first.csv", tmp_path / "predictions" / "evaluation.csv", model_folder(tmp_path)]
    assert short_names(paths) == ["first", "predictions", "nnUNetTrainer__nnUNetPlans__3d_fullres"]
    assert short_names([tmp_path / "lr_0.5", tmp_path / "lr_0.7"]) == ["lr_0.5", "lr_0.7"]
    for link in ("one", "other"):
        (tmp_path / link).symlink_to(tmp_path / "predictions")
    monkeypatch.chdir(tmp_path / "predictions")
    assert short_names([Path(), Path("../one"), tmp_path / "other"]) == ["predictions", "one", "other"]


def test_the_same_name_twice(tmp_path):
    folders = [model_folder(tmp_path / str(number)) for number in range(2)]
    with pytest.raises(ValueError, match=r"would be called the same \(nnUNetTrainer, nnUNetTrainer\): give --names"):
        short_names(folders)
