"""What a training is computed with is in its log and in its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from nnunetv2_mamba.ops.backend_selection import Choice
from nnunetv2_mamba.trainers import computing_environment as computing_environment_module
from nnunetv2_mamba.trainers.computing_environment import computing_environment
from nnunetv2_mamba.trainers.precision import AMP_VARIABLE, Precision

CPU = torch.device("cpu")
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
        "convolution": "torch",
        "convolution_reason": "asked for by NNUNETV2_MAMBA_SCAN",
        "ssd": "none",
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
    assert "Computed with convolution: 'torch' in the checkpoint, 'reference' now" in log
    assert log.count("in the checkpoint") == 2
    assert continued.checkpoint_content()[KEY]["scan"] == "reference"


def test_weights_only_loading_takes_it(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.initialize()
    torch.save(trainer.environment, tmp_path / "environment.pth")
    assert torch.load(tmp_path / "environment.pth", weights_only=True) == trainer.environment


def test_a_checkpoint_from_before_the_operators_had_an_entry_each(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.initialize()
    content = trainer.checkpoint_content()
    del content[KEY]["ssd"], content[KEY]["ssd_reason"], content[KEY]["convolution"], content[KEY]["convolution_reason"]
    torch.save(content, tmp_path / "checkpoint.pth")
    continued = make_trainer("nnUNetTrainerSegMamba")
    continued.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert "in the checkpoint" not in log_of(continued)
    assert continued.checkpoint_content()[KEY]["convolution"] in ("cpu", "torch")


@pytest.mark.parametrize(
    ("name", "operators"),
    [
        ("SegMamba", {"scan", "convolution"}),
        ("MedSegMamba", {"scan"}),
        ("UMambaEncMamba2", {"ssd", "convolution"}),
        ("SegMambaNoMamba", set()),
        ("UMambaEncConv", set()),
        ("TABSurfer", set()),
    ],
)
def test_each_operator_has_a_backend_and_what_the_network_does_not_call_has_none(make_trainer, name, operators):
    trainer = make_trainer(f"nnUNetTrainer{name}")
    trainer.initialize()
    environment = trainer.environment
    assert {each for each in ("scan", "ssd", "convolution") if environment[each] != "none"} == operators
    assert all(environment[each] in ("cpu", "torch") for each in operators)
    assert {each for each in ("scan", "ssd", "convolution") if environment[f"{each}_reason"] != "none"} == operators


@pytest.mark.parametrize(
    ("name", "amp", "asked"),
    [
        ("SegMamba", "fp16", torch.float16),
        ("SegMamba", "bf16", torch.bfloat16),
        ("SegMamba", "none", torch.float32),
        ("UMambaBot", "fp16", torch.float32),  # whatever the training computes in
    ],
)
def test_kernels_are_chosen_and_checked_for_what_the_layers_compute_in(make_trainer, monkeypatch, name, amp, asked):
    seen = []

    def choose(device, dtypes, operator):
        seen.append((operator, dtypes))
        return Choice("triton", "the kernel for cuda devices", False)

    monkeypatch.setattr(computing_environment_module, "choose", choose)
    monkeypatch.setenv(AMP_VARIABLE, amp)
    trainer = make_trainer(f"nnUNetTrainer{name}")
    trainer.initialize()
    assert seen == [("directional_scan", (asked,)), ("causal_conv1d", (asked,))]
    assert trainer.environment["scan"] == trainer.environment["convolution"] == "triton"


def test_a_backend_that_cannot_be_used_stops_the_training_before_it_starts(make_trainer, monkeypatch):
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", "triton")
    with pytest.raises(RuntimeError, match="scan backend 'triton', asked for by NNUNETV2_MAMBA_SCAN, cannot be used"):
        make_trainer("nnUNetTrainerSegMamba").initialize()


def test_names_of_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    named = {
        device: computing_environment(torch.device(device), Precision(CPU), nn.Identity(), False)["device"]
        for device in ("cuda:1", "mps")
    }
    assert named == {"cuda:1": "cuda, GPU 1", "mps": "mps"}
