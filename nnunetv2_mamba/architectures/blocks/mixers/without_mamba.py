"""The controls of Mamba and Mamba-2: their blocks with something else in place of causal convolution and scan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..depthwise_conv import DepthwiseConv, kernel_size_for
from ..dimensions import spatial_dims
from ..half_precision import saturated
from ..recompute import recomputed
from .gated import GatedMixer, NormAfterGate
from .registry import MIXERS, MixerOptions, register_mixer


@register_mixer("none")
class GatedIdentity(GatedMixer):
    """The identity: no token sees another. Of Mamba-2, the RMS norm after the gate stays."""

    def __init__(self, options: MixerOptions):
        super().__init__(options)
        self.norm = NormAfterGate(options.inner) if options.controls_of == "mamba2" else None

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        if self.norm is not None:  # Mamba-2's projection has the gate first
            x, z = z, x
        return recomputed(self._gated, self.sequence_part(x, grid), z)

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, inner)`` to the same."""
        return x

    def _gated(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        gated = saturated(nn.functional.silu(x) * nn.functional.silu(z))
        return gated if self.norm is None else self.norm(gated)


@register_mixer("conv")
class GatedConv(GatedIdentity):
    """A depthwise convolution of about as many weights."""

    def __init__(self, options: MixerOptions):
        super().__init__(options)
        weights = MIXERS[options.controls_of].sequence_weights(options) / options.inner
        kernel_size = kernel_size_for(weights, spatial_dims(options.conv_op))
        self.conv = DepthwiseConv(options.inner, options.conv_op, kernel_size)

    def sequence_part(self, x: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        return self.conv(x, grid)
