"""Every network in every mode of nnU-Net: trains, resumes, predicts and is evaluated; and compiles in one graph.

The fast suite runs the modes that differ most, every network in one of them, the slow one all with all.
"""

from __future__ import annotations

import functools
import json
import math
import multiprocessing
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from registered_networks import OF_MONAI, ONE_OF_EACH_CLASS, fitting
from tiny_dataset import DATASET_ID, LABELS, NAME, SHAPE, TinyDataset, make_tiny_dataset

from nnunetv2_mamba import trainers

SHORT_NAMES = [name.removeprefix("nnUNetTrainer") for name in trainers.FULL_LENGTH]
QUICK_NAMES = [name for name in ONE_OF_EACH_CLASS if name not in OF_MONAI]
TRAINERS = [
    pytest.param(f"nnUNetTrainer{name}", marks=[] if name in QUICK_NAMES else pytest.mark.slow, id=name)
    for name in SHORT_NAMES
]

DATASETS = {
    "plain": {},
    "anisotropic": {"channels": 1, "labels": {"background": 0, "all": 1}, "spacing": (4, 1, 1), "shape": (8, 24, 24)},
    "regions": {"labels": {"background": 0, "both": [1, 2], "small": 2}, "regions_class_order": [1, 2]},
    "ignore label": {"labels": {**LABELS, "ignore": 3}},
    "many": {"channels": 5, "labels": {"background": 0, **{f"structure {i}": i for i in range(1, 40)}}},
}
# Mode: data set, configuration, batch size.
MODES = {
    "2d": ("plain", "2d", 2),
    "anisotropic, 1 channel, 2 classes": ("anisotropic", "3d_fullres", 2),
    "regions": ("regions", "3d_fullres", 2),
    "ignore label": ("ignore label", "3d_fullres", 2),
    "5 channels, 40 classes": ("many", "3d_fullres", 2),
    "batch size 1": ("plain", "3d_fullres", 1),
}
# One for each class, in turn; every one trains in 3d_fullres in the trainers' tests.
QUICK_MODES = ("2d", "anisotropic, 1 channel, 2 classes", "regions", "ignore label")
QUICK = {(name, QUICK_MODES[turn % len(QUICK_MODES)]) for turn, name in enumerate(QUICK_NAMES)}
QUICK_CASCADES = ("MedSegMamba",)
EPOCH = "num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"


@pytest.fixture(scope="session")
def dataset_files(tmp_path_factory, tiny_dataset_files) -> Callable[[str], TinyDataset]:
    """The data set of a kind, made when first asked for."""

    @functools.cache
    def make(kind: str) -> TinyDataset:
        if kind == "plain":
            return tiny_dataset_files
        return make_tiny_dataset(tmp_path_factory.mktemp(kind.replace(" ", "_")), **DATASETS[kind])

    return make


@pytest.fixture(autouse=True)
def threads_for_processes(monkeypatch):
    """Every process that nnU-Net starts for export and evaluation would import torch."""
    torch.set_num_threads(1)
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: SimpleNamespace(Pool=ThreadPool))


def make_trainer(name: str, dataset: TinyDataset, configuration: str, plans: dict, fold: int | str = 0):
    plans = {**plans, "continue_training": False}  # nnU-Net takes it out
    arguments = (plans, configuration, fold, dataset.dataset_json(), torch.device("cpu"))
    return getattr(trainers, name)(*arguments)


def plans_for(name: str, dataset: TinyDataset, batch_size: int = 2) -> dict:
    plans = dataset.plans(f"tiny{getattr(trainers, name).network_class.__name__}Plans")
    for configuration in plans["configurations"].values():
        configuration["batch_size"] = batch_size
    return plans


def train_and_resume(make: Callable[[], nnUNetTrainer], monkeypatch) -> nnUNetTrainer:
    """One epoch, then another one from the checkpoint, as ``nnUNetv2_train --c`` does."""
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", f"num_epochs=1, {EPOCH}")
    first = make()
    first.run_training()
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", f"num_epochs=2, {EPOCH}")
    second = make()
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_final.pth"))
    for key, value in second.network.state_dict().items():
        assert torch.equal(value, first.network.state_dict()[key]), key
    second.run_training()
    assert second.current_epoch == 2
    for trainer in (first, second):
        assert math.isfinite(trainer.logger.get_value("train_losses", step=-1))
    return second


def dice(trainer: nnUNetTrainer) -> float:
    """Of nnU-Net's validation, which predicts whole cases, exports and evaluates them."""
    trainer.perform_actual_validation()
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    assert summary["metric_per_case"]
    return summary["foreground_mean"]["Dice"]


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(
            f"nnUNetTrainer{name}",
            mode,
            marks=[] if (name, mode) in QUICK else pytest.mark.slow,
            id=f"{name}-{mode}",
        )
        for name in SHORT_NAMES
        for mode in MODES
    ],
)
def test_trains_resumes_predicts_and_is_evaluated(name, mode, dataset_files, use_dataset, monkeypatch, tmp_path):
    kind, configuration, batch_size = MODES[mode]
    dataset = use_dataset(dataset_files(kind))
    plans = plans_for(name, dataset, batch_size)
    if kind == "anisotropic":
        planned = dataset.plans("nnUNetPlans")  # networks of MONAI but one halve all axes all the same
        strides = planned["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["strides"]
        assert any(min(stage) == 1 < max(stage) for stage in strides), strides
    trainer = train_and_resume(lambda: make_trainer(name, dataset, configuration, plans), monkeypatch)
    assert trainer.batch_size == batch_size
    assert 0 <= dice(trainer) <= 1
    validated = min((Path(trainer.output_folder) / "validation").glob("*.nii.gz"))
    case = validated.name.removesuffix(".nii.gz")

    predictor = nnUNetPredictor(device=torch.device("cpu"), perform_everything_on_device=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,))
    images = sorted(map(str, dataset.images.glob(f"{case}_*.nii.gz")))
    predictor.predict_from_files_sequential([images], [str(tmp_path / case)])
    segmentation, in_validation = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)) for file in (tmp_path / validated.name, validated)
    )
    assert segmentation.shape == DATASETS[kind].get("shape", SHAPE)
    assert (segmentation == in_validation).mean() > 0.99  # from the image as from what was preprocessed; and rounding
    assert set(np.unique(segmentation)) <= set(range(trainer.label_manager.num_segmentation_heads + 1))


@pytest.fixture(scope="session")
def cascade_files(dataset_files) -> TinyDataset:
    """The plain data set, with the cascade that nnU-Net plans for images far larger than a patch."""
    dataset = dataset_files("plain")
    names = {f"tiny{network}Plans": network for network in ONE_OF_EACH_CLASS}
    for name, network in names.items():
        plans = dataset.plans(name)
        full = plans["configurations"]["3d_fullres"]
        strides = full["architecture"]["arch_kwargs"]["strides"]
        plans["configurations"] |= {
            "3d_lowres": full
            | {
                "data_identifier": "tinyPlans_3d_lowres",
                "spacing": [2 * spacing for spacing in full["spacing"]],
                "patch_size": fitting(network, strides, [8, 12, 12]),
                "next_stage": "3d_cascade_fullres",
            },
            "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
        }
        dataset.write_plans(f"cascade{name}", plans)
    with (
        patch.dict("os.environ", {**dataset.environment(), "nnUNet_n_proc_DA": "1"}),
        patch("multiprocessing.get_context", return_value=SimpleNamespace(Pool=ThreadPool)),
    ):
        preprocess([DATASET_ID], f"cascade{min(names)}", configurations=("3d_lowres",), num_processes=[1])
    return dataset


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(f"nnUNetTrainer{name}", marks=[] if name in QUICK_CASCADES else pytest.mark.slow, id=name)
        for name in SHORT_NAMES
    ],
)
def test_cascade(name, cascade_files, use_dataset, monkeypatch):
    dataset = use_dataset(cascade_files)
    plans = dataset.plans(f"cascadetiny{getattr(trainers, name).network_class.__name__}Plans")
    for stage in ("3d_lowres", "3d_cascade_fullres"):
        make = functools.partial(make_trainer, name, dataset, stage, plans, "all")
        trainer = train_and_resume(make, monkeypatch)
        assert 0 <= dice(trainer) <= 1
    assert trainer.network.input_channels == 4  # two of the image, one per foreground class of the first stage
    predicted = dataset.results / NAME / f"{name}__{plans['plans_name']}__3d_lowres" / "predicted_next_stage"
    assert len(list((predicted / "3d_cascade_fullres").iterdir())) == 6


@pytest.mark.parametrize("configuration", [pytest.param("2d", marks=pytest.mark.slow), "3d_fullres"])
@pytest.mark.parametrize("name", TRAINERS)
def test_compiles_in_one_graph(name, configuration, tiny_dataset, monkeypatch):
    """Forward and backward, with the backend that needs no compiler; a graph break would be an error."""
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", "")
    torch._dynamo.reset()
    trainer = make_trainer(name, tiny_dataset, configuration, plans_for(name, tiny_dataset))
    trainer.initialize()
    network = trainer.network.eval()  # without dropout, whose random numbers would differ
    x = torch.randn(1, 2, *trainer.configuration_manager.patch_size)

    def outputs_and_gradients(forward):
        network.zero_grad()
        outputs = forward(x)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        sum(output.square().mean() for output in outputs).backward()
        return [*outputs, *(parameter.grad for parameter in network.parameters())]

    expected = outputs_and_gradients(network)
    actual = outputs_and_gradients(torch.compile(network, backend="aot_eager", fullgraph=True))
    # Before a norm, the gradient of a bias is 0 but for rounding: 1e-6 of the largest one is as good as none.
    rounding = 1e-6 * max(tensor.norm() for tensor in expected)
    for one, other in zip(actual, expected, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + rounding
