"""The controls of Mamba: its block with something else in place of causal convolution and scan."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..depthwise_conv import DepthwiseConv, kernel_size_for
from ..dimensions import spatial_dims
from ..directional_ssm import DirectionalSSM
from ..half_precision import saturated
from ..recompute import recomputed
from ..scan_paths import scan_paths
from .gated import GatedMixer
from .registry import register_mixer


@register_mixer("none")
class GatedIdentity(GatedMixer):
    """The identity: no token sees another. For the arguments see :class:`SequenceMixer`."""

    def __init__(
        self,
        d_model: int,
        conv_op: type[nn.Module],
        scan: str = "tri_oriented",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_init: str = "all",
    ):
        super().__init__(d_model, expand)
        scan_paths(scan)

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        return recomputed(_gated, self.sequence_part(x, grid), z)

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, inner)`` to the same."""
        return x


@register_mixer("conv")
class GatedConv(GatedIdentity):
    """A depthwise convolution of about as many weights. For the arguments see :class:`SequenceMixer`."""

    def __init__(
        self,
        d_model: int,
        conv_op: type[nn.Module],
        scan: str = "tri_oriented",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_init: str = "all",
    ):
        super().__init__(d_model, conv_op, scan, expand=expand)
        directions = scan_paths(scan).directions
        weights = DirectionalSSM.weights_per_channel(directions, d_state, math.ceil(d_model / 16))
        weights += directions * (d_conv + 1)
        self.conv = DepthwiseConv(expand * d_model, conv_op, kernel_size_for(weights, spatial_dims(conv_op)))

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        return self.conv(x, grid)


def _gated(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return saturated(nn.functional.silu(x) * nn.functional.silu(z))
