"""Fixtures for tests that train: see ``tiny_dataset.py``."""

import pytest
from tiny_dataset import TinyDataset, make_tiny_dataset

from nnunetv2_mamba._register import DISCOVERY


@pytest.fixture(scope="session")
def tiny_dataset_files(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    return make_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_dataset(tiny_dataset_files: TinyDataset, tmp_path, monkeypatch: pytest.MonkeyPatch) -> TinyDataset:
    """The session's data set, with nnU-Net's variables set to it and an empty results folder for this test."""
    dataset = tiny_dataset_files.with_results(tmp_path / "results")
    for name, value in dataset.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.delenv("NNUNETV2_MAMBA_SETTINGS", raising=False)
    return dataset
