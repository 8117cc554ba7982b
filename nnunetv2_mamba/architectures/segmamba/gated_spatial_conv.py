"""SegMamba's gated spatial convolution (GSC)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn

from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturated

GATES = ("add", "multiply")


class _ConvNormReLU(nn.Sequential):
    def __init__(self, channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__(
            conv_op(channels, channels, tuple(kernel_size), padding=same_padding(kernel_size)),
            get_matching_instancenorm(conv_op)(channels),
            nn.ReLU(inplace=True),
        )


class GatedSpatialConv(nn.Module):
    """``x + fuse(spatial(x) (+ or *) pointwise(x))``, each part convolution, instance norm, ReLU.

    The released code adds the two branches, the paper's figure 3 multiplies them: ``gate="add"`` or ``"multiply"``.

    Raises:
        ValueError: for an unknown ``gate``.
    """

    def __init__(self, channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int], gate: str = "add"):
        super().__init__()
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}; got {gate!r}")
        self.gate = gate
        pointwise = (1,) * len(kernel_size)
        self.spatial1 = _ConvNormReLU(channels, conv_op, kernel_size)
        self.spatial2 = _ConvNormReLU(channels, conv_op, kernel_size)
        self.pointwise = _ConvNormReLU(channels, conv_op, pointwise)
        self.fuse = _ConvNormReLU(channels, conv_op, pointwise)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        spatial = self.spatial2(self.spatial1(x))
        pointwise = self.pointwise(x)
        gated = spatial + pointwise if self.gate == "add" else spatial * pointwise
        return saturated(x + self.fuse(saturated(gated)))
