"""The controls of Mamba: its block with something else in place of causal convolution and scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..depthwise_conv import DepthwiseConv, kernel_size_for
from ..dimensions import spatial_dims
from ..directional_ssm import DirectionalSSM
from ..half_precision import saturated
from ..recompute import recomputed
from .gated import GatedMixer
from .registry import MixerOptions, register_mixer


@register_mixer("none")
class GatedIdentity(GatedMixer):
    """The identity: no token sees another."""

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        return recomputed(_gated, self.sequence_part(x, grid), z)

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, inner)`` to the same."""
        return x


@register_mixer("conv")
class GatedConv(GatedIdentity):
    """A depthwise convolution of about as many weights."""

    def __init__(self, options: MixerOptions):
        super().__init__(options)
        directions = options.directions
        weights = DirectionalSSM.weights_per_channel(directions, options.d_state, options.dt_rank, options.fusion)
        weights += directions * (options.d_conv + 1)
        kernel_size = kernel_size_for(weights, spatial_dims(options.conv_op))
        self.conv = DepthwiseConv(options.inner, options.conv_op, kernel_size)

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        return self.conv(x, grid)


def _gated(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return saturated(nn.functional.silu(x) * nn.functional.silu(z))
