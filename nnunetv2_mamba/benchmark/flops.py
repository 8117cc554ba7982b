"""Parameters and floating-point operations of a trainer's network, traced with tensors that have no data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mamba.ops import causal_conv1d, directional_scan

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NetworkCost:
    """Attributes:
    parameters: of the network as it is trained.
    flops: of one forward pass of one patch, as in prediction, without deep supervision. A multiplication and an
        addition count as two. Counted are convolutions, matrix products, attention, and the scan and its causal
        convolution; norms, activations and other element-wise operations are not.
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
        with FlopCounterMode(display=False, custom_mapping=_scan_formulas()) as counter, torch.no_grad():
            network(torch.empty(1, channels, *manager.patch_size))
    return NetworkCost(sum(parameter.numel() for parameter in trained.parameters()), counter.get_total_flops())


def _scan_formulas() -> dict[Any, Any]:
    """The package's own operators, which torch's counter does not know."""
    assert directional_scan and causal_conv1d  # importing them registers the operators
    operators = torch.ops.nnunetv2_mamba
    return {operators.directional_scan: scan_flops, operators.causal_conv1d: convolution_flops}


def scan_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, paths: Shape, D: Shape | None, *_: Any, **__: Any):
    """Per token, direction and channel: 7 for each state (dl * A, exp, times h, dl*u * B, plus, times C, plus), one for
    dl * u, and two for D * u. Shapes as in ``ops.directional_scan``."""
    batch, directions, length, channels = delta
    return batch * directions * length * channels * (7 * A[-1] + 1 + (0 if D is None else 2))


def convolution_flops(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Two per tap and output. Shapes as in ``ops.causal_conv1d``."""
    batch, directions, length, channels = out_shape
    return 2 * batch * directions * length * channels * weight[-1]
