"""What nnU-Net does with trained models: --npz, --val, -pretrained_weights, find_best_configuration, ensembling."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.evaluation.find_best_configuration import find_best_configuration
from nnunetv2.run.run_training import run_training
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_dataset import DATASET_ID, NAME, NETWORKS, TinyDataset

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation.tables import read_metrics

MODELS = [("nnUNetTrainer", "nnUNetPlans")]
MODELS += [(f"nnUNetTrainer{network}", f"tiny{network}Plans") for network in NETWORKS]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_iteration_in_one_process(monkeypatch):
    """Of the stock trainer too."""
    torch.set_num_threads(1)
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: SimpleNamespace(Pool=ThreadPool))
    monkeypatch.setenv("nnUNet_compile", "f")
    initialize = nnUNetTrainer.initialize

    def shorter(self: nnUNetTrainer) -> None:
        self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
        initialize(self)

    monkeypatch.setattr(nnUNetTrainer, "initialize", shorter)


def train(model: tuple[str, str], **options) -> None:
    run_training(str(DATASET_ID), "3d_fullres", 0, *model, device=CPU, **options)


@pytest.mark.slow
def test_backend_selection_and_ensembles_with_a_stock_model(tiny_dataset: TinyDataset):
    for model in MODELS:
        train(model, export_validation_probabilities=True)
    choices = [{"plans": plans, "configuration": "3d_fullres", "trainer": trainer} for trainer, plans in MODELS]
    find_best_configuration(DATASET_ID, choices, folds=(0,), num_processes=1)
    results = tiny_dataset.results / NAME
    found = json.loads((results / "inference_information.json").read_text())
    assert len(found["all_results"]) == len(MODELS) + len(MODELS) * (len(MODELS) - 1) // 2
    assert all(0 <= dice <= 1 for dice in found["all_results"].values())
    with_stock = [folder for folder in (results / "ensembles").iterdir() if "nnUNetTrainer__nnUNetPlans" in folder.name]
    assert len(with_stock) == len(NETWORKS)
    for folder in with_stock:
        assert json.loads((folder / "summary.json").read_text())["metric_per_case"]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_validation_again_and_pretrained_weights(tiny_dataset: TinyDataset, monkeypatch, network):
    model = (f"nnUNetTrainer{network}", f"tiny{network}Plans")
    train(model)
    fold = tiny_dataset.model_folder(*model) / "fold_0"
    validation = fold / "validation"
    before = json.loads((validation / "summary.json").read_text())
    for file in validation.iterdir():
        file.unlink()
    train(model, only_run_validation=True, export_validation_probabilities=True)
    assert json.loads((validation / "summary.json").read_text()) == before
    for file in validation.glob("*.npz"):
        with np.load(file) as content:
            probabilities = content["probabilities"]
        assert len(probabilities) == 3
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-2)
    assert list(validation.glob("*.npz"))
    assert main(["evaluate", str(fold), "-np", "1", "--add", "volumes", "lesions", "probabilities"]) == 0
    measured = read_metrics(validation).groupby("metric")["value"]
    assert measured.get_group("pr_auc").between(0, 1).all() and measured.get_group("ece").between(0, 1).all()

    trained = fold.rename(fold.with_name("before")) / "checkpoint_final.pth"
    weights = torch.load(trained, weights_only=False)["network_weights"]
    seen = []
    start = nnUNetTrainer.on_train_start

    def look(self: nnUNetTrainer) -> None:
        seen.append({name: value.clone() for name, value in self.network.state_dict().items()})
        start(self)

    monkeypatch.setattr(nnUNetTrainer, "on_train_start", look)
    train(model, pretrained_weights=str(trained))
    for name, value in weights.items():  # nnU-Net leaves the heads out
        assert ".seg_layers." in name or torch.equal(seen[0][name], value), name
    assert Path(fold / "checkpoint_final.pth").is_file()
