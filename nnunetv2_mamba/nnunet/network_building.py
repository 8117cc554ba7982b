"""The network that a trainer builds for a plan, as nnU-Net asks it for it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def build_network(
    trainer: type[nnUNetTrainer],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: Mapping[str, Any],
    deep_supervision: bool,
) -> nn.Module:
    """Build it by the method's arguments of nnU-Net 2.8 or, where it has them, those of 2.3 to 2.7.

    Raises:
        Exception: whatever the network raises.
    """
    build = trainer.build_network_architecture
    channels = determine_num_input_channels(plans, configuration, dataset_json)
    outputs = plans.get_label_manager(dataset_json).num_segmentation_heads
    if "plans_manager" in inspect.signature(build).parameters:
        return build(plans, configuration, channels, outputs, deep_supervision)
    return build(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        channels,
        outputs,
        deep_supervision,
    )
