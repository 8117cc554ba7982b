"""Mixed precision by ``NNUNETV2_MAMBA_AMP``."""

from __future__ import annotations

import pytest
import torch
from tiny_dataset import NETWORKS

from nnunetv2_mamba.trainers.precision import AMP_VARIABLE, Precision


@pytest.mark.parametrize(
    ("value", "dtype", "scaled"),
    [("", torch.float32, False), ("none", torch.float32, False), ("bf16", torch.bfloat16, False),
     ("fp16", torch.float16, True), ("BF16", torch.bfloat16, False)],
)  # fmt: skip
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_in_this_type(make_trainer, monkeypatch, network, value, dtype, scaled):
    monkeypatch.setenv(AMP_VARIABLE, value)
    trainer = make_trainer(f"nnUNetTrainer{network}", "num_epochs=1,num_iterations_per_epoch=8")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    assert (trainer.grad_scaler is not None) == scaled
    seen = set()
    for module in trainer.network.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.register_forward_hook(lambda module, args, output: seen.add(output.dtype))
    parameters = list(trainer.network.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    for _ in range(8):  # the first steps of fp16 may overflow, until the loss scale has settled
        loss = trainer.train_step(next(trainer.dataloader_train))["loss"]
        if changed := any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)):
            break
    assert changed and all(torch.isfinite(parameter).all() for parameter in parameters)
    assert seen == {dtype} and loss == pytest.approx(float(loss)) and loss < 10
    assert {parameter.dtype for parameter in parameters} == {torch.float32}


def test_unknown_value_names_the_variable_and_the_choices(make_trainer, monkeypatch):
    monkeypatch.setenv(AMP_VARIABLE, "half")
    with pytest.raises(ValueError, match=f"{AMP_VARIABLE}='half'; it must be one of fp16, bf16, none"):
        make_trainer("nnUNetTrainerSegMamba")


def test_a_device_without_autocast_refuses_it(monkeypatch):
    assert Precision(torch.device("mps")).dtype is None
    monkeypatch.setenv(AMP_VARIABLE, "fp16")
    with pytest.raises(ValueError, match=f"{AMP_VARIABLE}='fp16' needs one of the devices cuda, cpu"):
        Precision(torch.device("mps"))


@pytest.mark.parametrize(("kernel", "slices", "refused"), [(3, 2, True), (5, 4, True), (3, 3, False), (3, 1, False)])
def test_bf16_on_a_cpu_refuses_grids_of_few_slices(monkeypatch, kernel, slices, refused):
    """There torch's weight gradient reads memory that nobody has written."""
    monkeypatch.setenv(AMP_VARIABLE, "bf16")
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 2, kernel, padding=kernel // 2))
    x = torch.randn(1, 2, slices, 6, 6)
    Precision(torch.device("cpu")).check_convolutions(network)
    with torch.no_grad():
        network(x)  # predictions are right
    if refused:
        with pytest.raises(RuntimeError, match=f"{AMP_VARIABLE}=bf16 on a CPU.*down to {slices} slices.*{AMP_VARIABLE}=none"):
            network(x)
    else:
        network(x)
