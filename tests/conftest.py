"""Fixtures for tests that train (see ``tiny_dataset.py``), and for tests that send signals."""

import signal
from collections.abc import Callable, Iterator

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_dataset import TinyDataset, make_tiny_dataset

from nnunetv2_mamba import trainers
from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.architectures import SegMamba

SHORT = "num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"
MakeTrainer = Callable[..., nnUNetTrainer]


@pytest.fixture(scope="session")
def tiny_dataset_files(tmp_path_factory: pytest.TempPathFactory) -> TinyDataset:
    return make_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def use_dataset(tmp_path, monkeypatch: pytest.MonkeyPatch) -> Callable[[TinyDataset], TinyDataset]:
    """Set nnU-Net's variables to a data set, with an empty results folder for this test."""

    def use(files: TinyDataset) -> TinyDataset:
        dataset = files.with_results(tmp_path / "results")
        for name, value in dataset.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
        monkeypatch.delenv("NNUNETV2_MAMBA_SETTINGS", raising=False)
        return dataset

    return use


@pytest.fixture
def tiny_dataset(tiny_dataset_files: TinyDataset, use_dataset) -> TinyDataset:
    """The session's data set, in use."""
    return use_dataset(tiny_dataset_files)


@pytest.fixture
def make_trainer(tiny_dataset: TinyDataset, monkeypatch: pytest.MonkeyPatch) -> MakeTrainer:
    """Construct a trainer, by class or name, on the tiny data set as ``nnUNetv2_train`` does."""
    torch.set_num_threads(1)

    def make(trainer: type[nnUNetTrainer] | str, settings: str = SHORT, plans: str = "", **kwargs) -> nnUNetTrainer:
        monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", settings)
        if isinstance(trainer, str):
            trainer = getattr(trainers, trainer)
        network = getattr(trainer, "network_class", SegMamba)
        plans = plans or f"tiny{network.__name__}Plans"
        arguments = {"configuration": "3d_fullres", "fold": 0, "dataset_json": tiny_dataset.dataset_json(), **kwargs}
        document = {**tiny_dataset.plans(plans), "continue_training": False}
        return trainer(plans=document, device=torch.device("cpu"), **arguments)

    return make


@pytest.fixture
def signals_not_ignored() -> Iterator[None]:
    """Processes that the test starts take every signal: a suite run in the background or under nohup ignores some, and
    with it its children."""
    ignored = [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
    ours = [number for number in ignored if number not in (signal.SIGPIPE, signal.SIGXFSZ)]  # Python's own
    for number in ours:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number in ours:
        signal.signal(number, signal.SIG_IGN)
