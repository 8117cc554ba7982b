"""A data set small enough to train on in a test, planned and preprocessed by nnU-Net itself."""

from __future__ import annotations

import json
import os
import pydoc
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import SimpleITK
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiments,
    preprocess,
)
from registered_networks import ONE_OF_EACH_CLASS, fitting, own_stages

import nnunetv2_mamba
from nnunetv2_mamba.architectures import registry

DATASET_ID = 901
NAME = f"Dataset{DATASET_ID}_Tiny"
N_CASES = 6
SHAPE = (16, 24, 20)
LABELS = {"background": 0, "large": 1, "small": 2}
# A small network of every class, as plans that name our classes: tinySegMambaPlans, tinyMedSegMambaPlans, ...
SMALLER = {
    "MedSegMamba": {
        "bottleneck_channels": 16,
        "mlp_channels": 16,
        "drop_path": 0.0,  # a dropped path has no gradient, and some tests count gradients
    },
    "UMambaEnc": {"features_per_stage": [4, 8, 128]},  # so wide that channels are tokens at the bottleneck
}
NETWORKS = {
    name: {"features_per_stage": [8, 8, 8], **registry.NETWORKS[name].small, **SMALLER.get(name, {})}
    for name in ONE_OF_EACH_CLASS
}


class _QuickFingerprint(DatasetFingerprintExtractor):
    """nnU-Net's, which by default draws 100 million voxels from any data set."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_foreground_voxels_for_intensitystats = 1e4


@dataclass(frozen=True)
class TinyDataset:
    """Where nnU-Net keeps the data set."""

    raw: Path
    preprocessed: Path
    results: Path

    @property
    def images(self) -> Path:
        return self.raw / NAME / "imagesTr"

    def with_results(self, folder: Path) -> TinyDataset:
        folder.mkdir()
        return replace(self, results=folder)

    def environment(self) -> dict[str, str]:
        """For nnU-Net, with as few background processes as it allows, in this process and in those that it starts."""
        return {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(Path(nnunetv2_mamba.__file__).parents[1]),
        }

    def plans(self, name: str) -> dict:
        return json.loads((self.preprocessed / NAME / f"{name}.json").read_text())

    def write_plans(self, name: str, plans: dict) -> None:
        (self.preprocessed / NAME / f"{name}.json").write_text(json.dumps({**plans, "plans_name": name}))

    def dataset_json(self) -> dict:
        return json.loads((self.preprocessed / NAME / "dataset.json").read_text())

    def model_folder(self, trainer: str, plans: str, configuration: str = "3d_fullres") -> Path:
        return self.results / NAME / f"{trainer}__{plans}__{configuration}"


def make_tiny_dataset(
    root: Path,
    channels: int = 2,
    labels: dict = LABELS,
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0),
    shape: tuple[int, ...] = SHAPE,
    **description: object,
) -> TinyDataset:
    """Write the cases, then let nnU-Net plan and preprocess ``3d_fullres`` and ``2d``.

    Args:
        labels: of nnU-Net's ``dataset.json``, regions and ``ignore`` included.
        spacing, shape: of every case, slowest axis first.
        description: more of ``dataset.json``.
    """
    dataset = TinyDataset(root / "raw", root / "preprocessed", root / "results")
    folder = dataset.raw / NAME
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(N_CASES):
        volume = _label_volume(labels, shape, rng)
        name = f"case_{index}"
        for channel in range(channels):  # every second one shows all structures, the others one of them
            signal = volume == 2 if channel % 2 else volume
            noisy = signal + 0.1 * rng.standard_normal(shape)
            _write_image(noisy.astype(np.float32), spacing, folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz")
        _write_image(volume, spacing, folder / "labelsTr" / f"{name}.nii.gz")
    document = {
        "channel_names": {str(channel): f"channel {channel}" for channel in range(channels)},
        "labels": labels,
        "numTraining": N_CASES,
        "file_ending": ".nii.gz",
        **description,
    }
    (folder / "dataset.json").write_text(json.dumps(document))
    with (
        patch.dict(os.environ, {**dataset.environment(), "nnUNet_n_proc_DA": "1"}),  # the planner needs at least 1
        # threads, because every spawned process would import torch
        patch("multiprocessing.get_context", return_value=SimpleNamespace(Pool=ThreadPool)),
    ):
        extract_fingerprint_dataset(DATASET_ID, _QuickFingerprint, num_processes=1, show_progress_bar=False)
        plan_experiments([DATASET_ID])
        preprocess([DATASET_ID], configurations=("2d", "3d_fullres"), num_processes=[1, 1], show_progress_bar=False)
    for network, options in NETWORKS.items():
        _write_network_plans(dataset, network, options)
    return dataset


def _label_volume(labels: dict, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Two overlapping boxes; one label for both or a label per 20 of their voxels where there are so few or many."""
    volume = np.zeros(shape, dtype=np.uint8)
    corner = rng.integers(2, 5, size=3)
    volume[tuple(slice(c, c + 9) for c in corner)] = 1
    volume[tuple(slice(c + 6, c + 11) for c in corner)] = 2
    if len(labels) == 2:
        volume = np.minimum(volume, 1)
    if len(labels) > 4:
        inside = volume > 0
        volume[inside] = 1 + np.arange(inside.sum()) // 20 % (len(labels) - 1)
    if "ignore" in labels:
        volume[..., -4:] = labels["ignore"]
    return volume


def _write_image(array: np.ndarray, spacing: tuple[float, ...], path: Path) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, path)


def _write_network_plans(dataset: TinyDataset, network: str, options: dict) -> None:
    plans = dataset.plans("nnUNetPlans")
    for name in ("2d", "3d_fullres"):
        configuration = plans["configurations"][name]
        configuration["batch_size"] = 2
        planned = configuration["architecture"]["arch_kwargs"]
        convolution = {"conv_op": pydoc.locate(planned["conv_op"])}
        topology = {**own_stages(network, planned | convolution), "conv_op": planned["conv_op"]}
        configuration["patch_size"] = fitting(network, topology["strides"], configuration["patch_size"])
        configuration["architecture"] = {
            "network_class_name": f"nnunetv2_mamba.architectures.{network}",
            "arch_kwargs": {**topology, **options},
            "_kw_requires_import": ["conv_op"],
        }
    dataset.write_plans(f"tiny{network}Plans", plans)
