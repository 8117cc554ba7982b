"""Activation checkpointing: the same training, fewer activations kept, the same names."""

from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
from kept_storages import kept_bytes
from registered_networks import slow_if_of_monai
from tiny_dataset import NETWORKS

SETTINGS = "num_epochs=1, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"


def gradients(network: torch.nn.Module, data: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(0)  # the same dropout
    loss = sum(logits.square().mean() for logits in network(data))
    return list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


@pytest.mark.parametrize("network_name", slow_if_of_monai(NETWORKS))
def test_same_gradients_from_less_memory(make_trainer, network_name):
    name = f"nnUNetTrainer{network_name}"
    plain = make_trainer(name, SETTINGS)
    plain.initialize()
    frugal = make_trainer(name, SETTINGS + ", activation_checkpointing=true")
    frugal.initialize()
    assert plain.network.state_dict().keys() == frugal.network.state_dict().keys()
    frugal.network.load_state_dict(plain.network.state_dict())
    data = torch.randn(2, 2, *plain.configuration_manager.patch_size)
    networks = [copy.deepcopy(trainer.network).train() for trainer in (plain, frugal)]
    kept, kept_frugally = (kept_bytes(partial(network, data)) for network in networks)
    assert kept_frugally < 0.5 * kept
    expected, actual = (gradients(network, data) for network in networks)
    for gradient, reference in zip(actual, expected, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.slow
def test_trains_and_continues_without(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedSegMamba", SETTINGS + ", activation_checkpointing=true")
    trainer.run_training()
    continued = make_trainer("nnUNetTrainerMedSegMamba", SETTINGS + ", activation_checkpointing=false")
    continued.load_checkpoint(trainer.output_folder + "/checkpoint_final.pth")
    continued.perform_actual_validation()
