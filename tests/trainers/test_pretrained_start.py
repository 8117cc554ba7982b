"""A training on a large data set, then one on a small data set of other labels that starts from its weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
from commands import run
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from registered_networks import slow_if_of_monai, small_arguments
from tiny_dataset import DATASET_ID, NAME
from torch import nn

from nnunetv2_mamba.architectures.registry import NETWORKS

SOURCE_PLANS, PLANS, TRAINER = "tinySegMambaPlans", "nnUNetPlansFromSource", "nnUNetTrainerSegMamba"
SHORT = "num_epochs=1, num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"
STAGES = {"n_stages": 3, "conv_op": nn.Conv3d, "kernel_sizes": [[3] * 3] * 3, "strides": [[1] * 3, [2] * 3, [2] * 3]}


@pytest.mark.parametrize("name", slow_if_of_monai(NETWORKS))
def test_all_but_the_heads_is_taken_for_other_labels(name, tmp_path):
    arguments = {**STAGES, "features_per_stage": [8, 8, 8], "input_channels": 2, "deep_supervision": True}
    source, target = (
        NETWORKS[name].network_class(**small_arguments(name, {**arguments, "num_classes": classes}, [32, 32, 32]))
        for classes in (3, 5)
    )
    for parameter in source.parameters():  # norms and biases too, which start alike everywhere
        parameter.data.normal_()
    torch.save({"network_weights": source.state_dict()}, tmp_path / "source.pth")
    load_pretrained_weights(target, tmp_path / "source.pth")
    given = source.state_dict()
    assert any(".seg_layers." in key for key in given)
    for key, value in target.state_dict().items():
        assert ".seg_layers." in key or torch.equal(value, given[key]), key


@pytest.mark.slow
def test_with_the_commands_of_nnunet(tiny_dataset_files, use_dataset, tmp_path, monkeypatch):
    for part in ("raw", "preprocessed"):
        shutil.copytree(getattr(tiny_dataset_files, part), tmp_path / part)
    dataset = use_dataset(replace(tiny_dataset_files, raw=tmp_path / "raw", preprocessed=tmp_path / "preprocessed"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    target = dataset.raw / "Dataset902_Target"
    shutil.copytree(dataset.raw / NAME, target)
    description = json.loads((target / "dataset.json").read_text())
    description["labels"] = {**description["labels"], "another": 3}
    (target / "dataset.json").write_text(json.dumps(description))

    train = ("3d_fullres", 0, "-tr", TRAINER, "-device", "cpu")
    run(tmp_path, "nnUNetv2_train", DATASET_ID, *train, "-p", SOURCE_PLANS, settings=SHORT)
    source = dataset.model_folder(TRAINER, SOURCE_PLANS) / "fold_0" / "checkpoint_final.pth"

    run(tmp_path, "nnUNetv2_plan_and_preprocess", "-d", 902, "--no_pp", "-npfp", 1, settings="")
    move = ("-s", DATASET_ID, "-t", 902, "-sp", SOURCE_PLANS, "-tp", PLANS)
    run(tmp_path, "nnUNetv2_move_plans_between_datasets", *move, settings="")
    run(tmp_path, "nnUNetv2_preprocess", "-d", 902, "-plans_name", PLANS, "-c", "3d_fullres", "-np", 1, settings="")
    still = f"{SHORT}, initial_lr=1e-30"  # what is trained afterwards stays where it started
    run(tmp_path, "nnUNetv2_train", 902, *train, "-p", PLANS, "-pretrained_weights", source, settings=still)

    folder = dataset.results / "Dataset902_Target" / f"{TRAINER}__{PLANS}__3d_fullres" / "fold_0"
    trained = torch.load(folder / "checkpoint_final.pth", weights_only=False)["network_weights"]
    given = torch.load(source, weights_only=False)["network_weights"]
    assert trained.keys() == given.keys()
    for key, value in trained.items():
        assert len(value) == 4 if ".seg_layers." in key else torch.equal(value, given[key]), key
