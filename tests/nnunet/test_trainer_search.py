"""nnU-Net's search by name finds this package's trainers and others', without a word."""

import os

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba import trainers
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.nnunet.trainer_search import all_trainers, find_trainer

OTHERS = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class nnUNetTrainerOfAnotherPlugin(nnUNetTrainer): pass
class nnUNetTrainerByNameOnly: pass
"""


@pytest.fixture(autouse=True)
def plugins(tmp_path, monkeypatch):
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join((str(tmp_path), DISCOVERY)))


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerSegMamba", "nnUNetTrainerOfAnotherPlugin"])
def test_found_under_its_name(name, capsys):
    assert find_trainer(name).__name__ == name
    assert capsys.readouterr().out == ""


def test_the_class_itself():
    assert find_trainer("nnUNetTrainer") is nnUNetTrainer
    assert find_trainer("nnUNetTrainerSegMamba") is trainers.nnUNetTrainerSegMamba


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMamab", "nnUNetTrainerByNameOnly"])
def test_what_is_no_trainer(name):
    assert find_trainer(name) is None


def test_of_modules_that_cannot_be_imported_nnunet_passes_over_those_that_are_not_found(tmp_path, monkeypatch):
    """Not over one whose import of another fails: there its search ends, as for ``others``, which comes later."""
    (tmp_path / "absent.py").write_text("raise ModuleNotFoundError('not under this name', name='absent')")
    assert find_trainer("nnUNetTrainerOfAnotherPlugin") and not all_trainers().problems
    (tmp_path / "broken.py").write_text("import not_installed_here")
    with pytest.raises(ModuleNotFoundError, match="not_installed_here"):
        find_trainer("nnUNetTrainerOfAnotherPlugin")
    (problem,) = all_trainers().problems
    assert "broken.py, where nnU-Net's search ends: ModuleNotFoundError" in problem
