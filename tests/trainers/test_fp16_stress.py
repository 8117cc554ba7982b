"""Large activations in fp16, whose largest number is 65504: 200 steps of every network."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_dataset import NETWORKS
from torch import nn

from nnunetv2_mamba.trainers.precision import AMP_VARIABLE

STEPS, RISE, LARGEST = 200, 100, 1e4


def enlarge(scale: list[float]):
    """A forward pre-hook that gives a module's input a largest value of ``scale[0]``."""

    def hook(module: nn.Module, args: tuple) -> tuple:
        x = args[0].float()  # the factor itself may be beyond fp16
        return ((x * (scale[0] / x.detach().abs().amax().clamp_min(1e-6))).to(args[0].dtype), *args[1:])

    return hook


def stages(network: nn.Module) -> list[nn.Module]:
    """The stages of encoder and decoder, each of which begins with what the one before it gave."""
    lists = [part for child in network.children() for part in child.children()]
    found = [stage for part in lists if isinstance(part, nn.ModuleList | nn.Sequential) for stage in part]
    assert len(found) >= 4
    return found


@pytest.mark.slow
@pytest.mark.parametrize("where", ["images", "stages"])
@pytest.mark.parametrize("network", NETWORKS)
def test_no_nan_with_large_activations(make_trainer, monkeypatch, network, where):
    """The largest value rises to 1e4 over 100 steps and stays there. Steps that the loss scaling skips are its way."""
    monkeypatch.setenv(AMP_VARIABLE, "fp16")
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    settings = f"num_epochs=1, num_iterations_per_epoch={STEPS}, num_val_iterations_per_epoch=1"
    trainer = make_trainer(f"nnUNetTrainer{network}", settings)
    torch.manual_seed(0)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    scale = [1.0]
    enlarged = [trainer.network] if where == "images" else stages(trainer.network)
    for module in enlarged:
        module.register_forward_pre_hook(enlarge(scale))
    losses = []
    for step in range(STEPS):
        scale[0] = LARGEST ** min(1.0, step / RISE)
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
    assert all(map(math.isfinite, losses))
    assert all(torch.isfinite(parameter).all() for parameter in trainer.network.parameters())
    assert trainer.non_finite.total < STEPS // 10
