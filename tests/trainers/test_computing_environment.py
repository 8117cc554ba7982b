"""What a training is computed with is in its log and in its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_mamba.trainers.computing_environment import computing_environment
from nnunetv2_mamba.trainers.precision import AMP_VARIABLE

KEY = "nnunetv2_mamba_environment"


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def test_log_and_checkpoint(make_trainer, monkeypatch, tmp_path):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "torch")
    monkeypatch.setenv(AMP_VARIABLE, "bf16")
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    saved = torch.load(tmp_path / "checkpoint.pth", weights_only=False)[KEY]
    expected = {
        "scan": "torch",
        "scan_reason": "asked for by NNUNETV2_MAMBA_SCAN",
        "mixed_precision": "bf16",
        "compiled": False,
        "torch": torch.__version__,
    }
    assert expected.items() <= saved.items() and saved["device"].startswith("cpu, ")
    assert {type(value) for value in saved.values()} == {str, bool}
    lines = [line.strip() for line in log_of(trainer).splitlines()]
    assert {f"{name} = {value!r}" for name, value in saved.items()} <= set(lines)

    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "reference")
    continued = make_trainer("nnUNetTrainerSegMamba")
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    log = log_of(continued)
    assert "Computed with scan: 'torch' in the checkpoint, 'reference' now" in log
    assert log.count("in the checkpoint") == 1
    assert continued.checkpoint_content()[KEY]["scan"] == "reference"


def test_weights_only_loading_takes_it(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.initialize()
    torch.save(trainer.environment, tmp_path / "environment.pth")
    assert torch.load(tmp_path / "environment.pth", weights_only=True) == trainer.environment


@pytest.mark.parametrize(
    "name", ["nnUNetTrainerSegMambaNoMamba", "nnUNetTrainerUMambaEncConv", "nnUNetTrainerTABSurfer"]
)
def test_a_network_that_does_not_scan_has_no_backend(make_trainer, name):
    trainer = make_trainer(name)
    trainer.initialize()
    assert trainer.environment["scan"] == trainer.environment["scan_reason"] == "none"


@pytest.mark.parametrize("name", ["SegMamba", "MedSegMamba", "SegMambaBot", "UMambaBot", "UMambaEnc", "MSDKMamba"])
def test_every_network_that_scans_has_one(make_trainer, name):
    trainer = make_trainer(f"nnUNetTrainer{name}")
    trainer.initialize()
    assert trainer.environment["scan"] in ("cpu", "torch")


def test_a_backend_that_cannot_be_used_stops_the_training_before_it_starts(make_trainer, monkeypatch):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "triton")
    with pytest.raises(RuntimeError, match="scan backend 'triton', asked for by NNUNETV2_MAMBA_SCAN, cannot be used"):
        make_trainer("nnUNetTrainerSegMamba").initialize()


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    named = {
        device: computing_environment(torch.device(device), "none", nn.Identity(), False)["device"]
        for device in ("cuda:1", "mps")
    }
    assert named == {"cuda:1": "cuda, GPU 1", "mps": "mps"}
