"""Operations of the networks, counted on tensors without data."""

import math

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_dataset import TinyDataset

from nnunetv2_mamba.benchmark.checks import trainer_class
from nnunetv2_mamba.benchmark.flops import forward_flops
from nnunetv2_mamba.ops import causal_conv1d, directional_scan, directional_ssd, scan_order
from nnunetv2_mamba.ops.flops import flop_counter


def test_scan_and_convolution_are_counted():
    batch, length, channels, states, taps = 2, 6, 4, 3, 4
    paths = scan_order.bidirectional((length,), torch.device("cpu"))
    directions = len(paths)
    u, delta = torch.randn(batch, length, channels), torch.randn(batch, directions, length, channels)
    A, D = -torch.rand(directions, channels, states), torch.randn(directions, channels)
    B = C = torch.randn(batch, directions, length, states)
    with flop_counter() as counter:
        directional_scan(u, delta, A, B, C, paths, D)
        causal_conv1d(u, torch.randn(directions, channels, taps), None, paths)
    positions = batch * directions * length * channels
    assert counter.get_total_flops() == positions * (7 * states + 3) + positions * 2 * taps


def test_mamba_2s_scan_is_counted():
    batch, length, heads, width, states = 2, 6, 2, 3, 5
    paths = scan_order.bidirectional((length,), torch.device("cpu"))
    u, delta = torch.randn(batch, length, heads * width), torch.randn(batch, 2, length, heads)
    A, D = -torch.rand(2, heads), torch.randn(2, heads)
    B = C = torch.randn(batch, 2, length, 1, states)
    with flop_counter() as counter:
        directional_ssd(u, delta, A, B, C, paths, D)
    assert counter.get_total_flops() == batch * 2 * length * heads * (width * (5 * states + 3) + 2)


def test_one_patch_is_counted_without_deep_supervision(tiny_dataset: TinyDataset):
    supervised = []

    class OneConvolution(nnUNetTrainer):
        @staticmethod
        def build_network_architecture(*arguments):
            supervised.append(arguments[-1])
            return torch.nn.Conv3d(2, 3, 1)

    manager = PlansManager(tiny_dataset.plans("nnUNetPlans"))
    flops = forward_flops(OneConvolution, manager, "3d_fullres", tiny_dataset.dataset_json())
    assert flops == 2 * 2 * 3 * math.prod(manager.get_configuration("3d_fullres").patch_size)
    assert supervised == [False]


@pytest.mark.parametrize(("trainer", "plans"), [("nnUNetTrainer", "nnUNetPlans"), ("SegMamba", "tinySegMambaPlans")])
def test_a_forward_pass_of_any_trainer(tiny_dataset: TinyDataset, trainer, plans):
    manager, description = PlansManager(tiny_dataset.plans(plans)), tiny_dataset.dataset_json()
    name = trainer if trainer.startswith("nnUNet") else f"nnUNetTrainer{trainer}"
    flops = forward_flops(trainer_class(name), manager, "3d_fullres", description)
    arguments = (manager, manager.get_configuration("3d_fullres"), 2, 3, True)
    real = trainer_class(name).build_network_architecture(*arguments)
    assert flops > 2 * sum(parameter.numel() for parameter in real.parameters())
    if trainer == "SegMamba":
        assert forward_flops(trainer_class(f"{name}NoMamba"), manager, "3d_fullres", description) < flops
