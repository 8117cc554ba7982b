"""Every trainer trains, can be predicted with, and is found and pickled under its name."""

from __future__ import annotations

import math
import pickle
import runpy
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from documentation import ROOT
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from registered_networks import slow_if_of_monai
from tiny_dataset import SHAPE, TinyDataset

from nnunetv2_mamba import trainers
from nnunetv2_mamba.architectures.registry import CONTROLS, NETWORKS
from nnunetv2_mamba.trainers import stub
from nnunetv2_mamba.trainers.lengths import LENGTHS
from nnunetv2_mamba.trainers.papers import PAPER_TRAINERS

FULL_LENGTH = list(trainers.FULL_LENGTH)


def _mixes(name: str) -> bool:
    return "mixer" in trainers.FULL_LENGTH[name].network_class.option_names()


@pytest.mark.parametrize(
    "name",
    slow_if_of_monai(FULL_LENGTH, "nnUNetTrainer", lambda name: name.endswith(tuple(CONTROLS))),
)
def test_trains_saves_and_predicts(name: str, make_trainer, tiny_dataset: TinyDataset):
    trainer = make_trainer(name)
    trainer.run_training()

    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    # gradients, because two steps move some parameters by less than their rounding
    untrained = {key for key, value in trainer.network.named_parameters() if value.grad is None or not value.grad.any()}
    unused = {"decoder.seg_layers.1.weight", "decoder.seg_layers.1.bias"}  # the lowest resolution weighs 0 in nnU-Net
    lowest_used = not trainer.enable_deep_supervision or name.endswith("FusedTeacher")  # the fusion has all of them
    assert untrained == (set() if lowest_used else unused)

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    plans = f"tiny{trainer.network_class.__name__}Plans"
    predictor.initialize_from_trained_model_folder(str(tiny_dataset.model_folder(name, plans)), (0,))
    assert predictor.trainer_name == name
    for key, value in predictor.network.state_dict().items():
        assert torch.equal(value, trainer.network.state_dict()[key]), key
    with torch.inference_mode():
        logits = predictor.predict_sliding_window_return_logits(torch.zeros(2, *SHAPE))
    assert logits.shape == (3, *SHAPE) and torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMamba", "nnUNetTrainerMedSegMambaPaper"])
@pytest.mark.parametrize("purpose", ["training", "validation"])
def test_a_fold_without_cases_is_named(make_trainer, monkeypatch, name, purpose):
    """nnU-Net's loaders say that 'a' cannot be empty; scans that come over and over would be waited for without end."""
    trainer = make_trainer(name)
    training, validation = trainer.do_split()
    split = ([], validation) if purpose == "training" else (training, [])
    monkeypatch.setattr(trainer, "do_split", lambda: split)
    with pytest.raises(ValueError, match=f"fold 0 has no {purpose} cases; list some in .*splits_final.json, or give"):
        trainer.on_train_start()


@pytest.mark.parametrize("n_cases", [1, 4])
def test_too_few_cases_to_split_are_said(make_trainer, monkeypatch, n_cases):
    """nnU-Net's folds are scikit-learn's, which speaks of n_splits."""
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.get_tr_and_val_datasets()  # finds nnU-Net's class of data sets
    splits = Path(trainer.preprocessed_dataset_folder_base, "splits_final.json")
    splits.unlink()
    monkeypatch.setattr(trainer.dataset_class, "get_identifiers", staticmethod(lambda _: [*map(str, range(n_cases))]))
    with pytest.raises(ValueError, match=f"fold 0: .* into 5 folds, and there are {n_cases} cases .*{splits}, or give"):
        trainer.get_tr_and_val_datasets()


def test_cases_that_were_added_after_the_split_are_told(make_trainer, monkeypatch):
    """nnU-Net makes its splits once, and trains without them."""
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.get_tr_and_val_datasets()
    assert "in no fold" not in Path(trainer.log_file).read_text()
    splits = Path(trainer.preprocessed_dataset_folder_base, "splits_final.json")
    present = trainer.dataset_class.get_identifiers(trainer.preprocessed_dataset_folder)
    added = staticmethod(lambda folder: [*present, "case_9"])
    monkeypatch.setattr(trainer.dataset_class, "get_identifiers", added)
    trainer.get_tr_and_val_datasets()
    said = f"WARNING: 1 preprocessed cases are in no fold of {splits}: case_9. If they should be, delete that file"
    assert said in Path(trainer.log_file).read_text()


def test_cases_that_a_cascades_first_model_has_not_segmented_are_named(make_trainer, tiny_dataset: TinyDataset):
    """nnU-Net's loaders open the files in processes of their own, when a case is drawn for the first time."""
    plans = tiny_dataset.plans("tinySegMambaPlans")
    plans["configurations"] |= {
        "3d_lowres": plans["configurations"]["3d_fullres"] | {"next_stage": "3d_cascade_fullres"},
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    tiny_dataset.write_plans("cascadePlans", plans)
    trainer = make_trainer("nnUNetTrainerSegMamba", plans="cascadePlans", configuration="3d_cascade_fullres")
    folder = Path(trainer.folder_with_segs_from_previous_stage)
    message = f"{folder} lacks the segmentations of 6 cases: case_0.* 3d_lowres with"
    with pytest.raises(FileNotFoundError, match=message):
        trainer.get_tr_and_val_datasets()
    training, validation = trainer.do_split()
    folder.mkdir(parents=True)
    for case in [*training, *validation[1:]]:
        (folder / f"{case}.b2nd").touch()
    with pytest.raises(FileNotFoundError, match=rf"segmentations of 1 cases: {validation[0]}\. Train"):
        trainer.get_tr_and_val_datasets()
    (folder / f"{validation[0]}.b2nd").touch()
    trainer.get_tr_and_val_datasets()
    assert "fold_all" not in Path(trainer.log_file).read_text()
    of_all = folder.parents[1] / "fold_all" / "validation"
    of_all.mkdir(parents=True)
    (of_all / f"{validation[0]}.nii.gz").touch()
    trainer.get_tr_and_val_datasets()
    log = Path(trainer.log_file).read_text()
    assert f"WARNING: {folder} has segmentations of 1 cases by fold_all of 3d_lowres" in log
    assert f"validated last: {validation[0]}. Validate the numbered folds of 3d_lowres again" in log


@pytest.mark.parametrize("name", [name for name in FULL_LENGTH if "Paper" not in name and _mixes(name)])
def test_name_says_what_mixes(name: str, make_trainer):
    trainer = make_trainer(name)
    trainer.initialize()
    mamba = any(key.endswith("A_log") for key, _ in trainer.network.named_parameters())
    assert mamba == (not name.endswith(("NoMamba", "Conv")) and "TABSurfer" not in name)


def test_networks_of_the_same_plans_differ(make_trainer):
    """SegMambaBot and TABSurfer are not MedSegMamba under another name."""
    keys = set()
    for name in ("nnUNetTrainerMedSegMamba", "nnUNetTrainerSegMambaBot", "nnUNetTrainerTABSurfer"):
        trainer = make_trainer(name)
        trainer.initialize()
        keys.add(tuple(trainer.network.state_dict()))
    assert len(keys) == 3


def test_lengths_exist_for_every_trainer():
    lengths = ("", "_1epoch", "_5epochs", "_10epochs", "_20epochs", "_50epochs", "_100epochs", "_250epochs")
    assert trainers.__all__[: len(FULL_LENGTH)] == FULL_LENGTH
    assert sorted(trainers.__all__) == sorted(name + length for name in FULL_LENGTH for length in lengths)


def test_every_network_has_a_trainer_and_one_for_each_variant():
    for name, network in NETWORKS.items():
        for suffix in ("", *network.variants):
            trainer = getattr(trainers, f"nnUNetTrainer{name}{suffix}")
            assert trainer.network_class is network.network_class and trainer.network_name == name
            changed = network.variants[suffix].options if suffix else {}
            assert trainer.network_options == {**network.options, **changed}
            recipe = {**network.recipe, **(network.variants[suffix].recipe if suffix else {})}
            assert {key: getattr(trainer.recipe, key) for key in recipe} == recipe


# The class names of 0.1: scripts, results folders and checkpoints name them.
NAMES = {
    "SegMamba": ("", "NoMamba", "Conv", "Paper"),
    "MedSegMamba": ("", "NoMamba", "Conv", "Paper", "HippocampusPaper"),
    "SegMambaBot": ("", "NoMamba", "Conv"),
    "TABSurfer": ("", "NoMamba", "Conv"),
    "UMambaBot": ("", "NoMamba", "Conv"),
    "UMambaEnc": ("", "NoMamba", "Conv"),
    "MSDKMamba": ("", "NoMamba", "Conv", "NoKAN", "NoDistillation", "FusedTeacher", "EMATeacher"),
}


def test_names_stay():
    assert {f"nnUNetTrainer{network}{suffix}" for network in NAMES for suffix in NAMES[network]} <= set(FULL_LENGTH)


def test_what_the_readme_and_the_documentation_list():
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/trainers.md"))
    names = {*LENGTHS, *(trainer.__name__ for trainer in PAPER_TRAINERS)}
    assert all(f"`{name}`" in readme for name in names)
    filled = runpy.run_path(str(ROOT / "mkdocs_registry.py"))["on_page_markdown"](page)
    settings = {entry.name for trainer in trainers.FULL_LENGTH.values() for entry in fields(trainer.recipe)}
    assert all(f"`{name}`" in filled for name in names | settings)


def test_what_no_trainer_is_called():
    for name in ("nnUNetTrainerSegMamab", "nnUNetTrainerSegMamba_7epochs", "_5epochs", "__path"):
        assert not hasattr(trainers, name)


def test_the_stub_is_current():
    """``python -m nnunetv2_mamba.trainers.stub`` writes it."""
    assert stub.FILE.read_text(encoding="utf-8") == stub.stub()


@pytest.mark.parametrize("name", trainers.__all__)
def test_class_is_found_and_pickled_under_its_name(name: str, tiny_dataset: TinyDataset):
    trainer = getattr(trainers, name)
    assert trainer.__name__ == trainer.__qualname__ == name
    assert trainer.__doc__
    assert pickle.loads(pickle.dumps(trainer)) is trainer
    assert recursive_find_trainer_class_by_name(name) is trainer


def test_length_reaches_the_training(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMamba_20epochs", settings="")
    assert trainer.num_epochs == 20
    assert trainer.output_folder_base.endswith("nnUNetTrainerSegMamba_20epochs__tinySegMambaPlans__3d_fullres")
    trainer.initialize()
    rates = []
    for epoch in range(20):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(rates, [1e-2 * (1 - epoch / 20) ** 0.9 for epoch in range(20)])


def test_nnunet_style_subclass_changes_attributes(make_trainer):
    class Longer(trainers.nnUNetTrainerMedSegMamba):
        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.initial_lr = 1e-4
            self.num_epochs = 2000

    trainer = make_trainer(Longer, settings="")
    trainer.initialize()
    trainer.lr_scheduler.step(200)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * 0.9**0.9)


def test_two_dimensional_configuration_trains(make_trainer):
    for name in ("nnUNetTrainerSegMamba", "nnUNetTrainerMedSegMambaPaper"):
        trainer = make_trainer(name, configuration="2d")
        trainer.run_training()
        assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMamba", "nnUNetTrainerMSDKMamba"])
def test_plans_of_two_stages_train(name: str, make_trainer, tiny_dataset: TinyDataset):
    """They have one head, to which nnU-Net's deep supervision gives the weight 0 / 0."""
    plans = tiny_dataset.plans(f"tiny{trainers.FULL_LENGTH[name].network_class.__name__}Plans")
    architecture = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    architecture.update({key: value[:2] for key, value in architecture.items() if isinstance(value, list)}, n_stages=2)
    tiny_dataset.write_plans("two_stages", plans)
    trainer = make_trainer(name, plans="two_stages")
    trainer.run_training()
    assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    assert math.isfinite(trainer.logger.get_value("val_losses", step=-1))
