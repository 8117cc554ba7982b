"""Mixed precision by ``NNUNETV2_MAMBA_AMP``."""

from __future__ import annotations

import pytest
import torch
from tiny_dataset import NETWORKS

from nnunetv2_mamba.trainers.precision import VARIABLE, Precision


@pytest.mark.parametrize(
    ("value", "dtype", "scaled"),
    [("", torch.float32, False), ("none", torch.float32, False), ("bf16", torch.bfloat16, False),
     ("fp16", torch.float16, True), ("BF16", torch.bfloat16, False)],
)  # fmt: skip
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_in_this_type(make_trainer, monkeypatch, network, value, dtype, scaled):
    monkeypatch.setenv(VARIABLE, value)
    trainer = make_trainer(f"nnUNetTrainer{network}")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    assert (trainer.grad_scaler is not None) == scaled
    seen = set()
    for module in trainer.network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    for _ in range(2):  # the first step of fp16 may overflow
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
    assert seen == {dtype} and loss == pytest.approx(float(loss)) and loss < 10
    assert {parameter.dtype for parameter in trainer.network.parameters()} == {torch.float32}
    after = list(trainer.network.parameters())
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_unknown_value_names_the_variable_and_the_choices(make_trainer, monkeypatch):
    monkeypatch.setenv(VARIABLE, "half")
    with pytest.raises(ValueError, match=f"{VARIABLE}='half'; it must be one of fp16, bf16, none"):
        make_trainer("nnUNetTrainerSegMamba")


def test_a_device_without_autocast_refuses_it(monkeypatch):
    assert Precision(torch.device("mps")).dtype is None
    monkeypatch.setenv(VARIABLE, "fp16")
    with pytest.raises(ValueError, match=f"{VARIABLE}='fp16' needs one of the devices cuda, cpu"):
        Precision(torch.device("mps"))
