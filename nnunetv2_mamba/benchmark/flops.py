"""Parameters and floating-point operations of a trainer's network, traced with tensors that have no data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.ops.flops import flop_counter


@dataclass(frozen=True)
class NetworkCost:
    """Attributes:
    parameters: of the network as it is trained.
    flops: of one forward pass of one patch, as in prediction, without deep supervision; see ``ops.flops``.
    """

    parameters: int
    flops: int


def network_cost(
    trainer: type[nnUNetTrainer], plans: PlansManager, configuration: str, dataset_json: dict
) -> NetworkCost:
    """Cost of the network that ``trainer`` builds for a plan. Takes seconds, allocates nothing."""
    manager = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, manager, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads

    def build(deep_supervision: bool) -> torch.nn.Module:
        return trainer.build_network_architecture(plans, manager, channels, outputs, deep_supervision)

    with FakeTensorMode():
        recipe = getattr(trainer, "recipe", None)
        trained = build(recipe is None or recipe.enable_deep_supervision)
        network = build(False).eval()
        with flop_counter() as counter, torch.no_grad():
            network(torch.empty(1, channels, *manager.patch_size))
    return NetworkCost(sum(parameter.numel() for parameter in trained.parameters()), counter.get_total_flops())
