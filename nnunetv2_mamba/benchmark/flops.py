"""Floating-point operations of a trainer's network, traced with tensors that have no data."""

from __future__ import annotations

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.nnunet.network_building import build_network
from nnunetv2_mamba.ops.flops import flop_counter


def forward_flops(trainer: type[nnUNetTrainer], plans: PlansManager, configuration: str, dataset_json: dict) -> int:
    """Count the operations of one forward pass of one patch, as in prediction, without deep supervision.

    What is counted is said in ``ops.flops``. It takes seconds and allocates nothing. The network is the one that
    ``trainer`` builds for the configuration of the plans.

    Raises:
        Exception: whatever the network raises on tensors without data.
    """
    manager = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, manager, dataset_json)
    with FakeTensorMode():
        network = build_network(trainer, plans, manager, dataset_json, False).eval()
        with flop_counter() as counter, torch.no_grad():
            network(torch.empty(1, channels, *manager.patch_size))
    return counter.get_total_flops()
