"""The Mamba layer of U-Mamba and U-Mamba2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .half_precision import saturated, wide
from .mixers import sequence_mixer
from .state_space import ComputesInFP32
from .tokens import to_tokens, to_volume


class MambaLayer(ComputesInFP32, nn.Module):
    """``Mamba(LayerNorm(tokens))``, no residual, in fp32 (or fp64) under any autocast.

    The tokens are the voxels. With ``channel_grid`` the roles are swapped: the tokens are the channels, a line in their
    order, and their width is the number of voxels, so that the weights belong to one size of the volume.

    Args:
        channels: of the volume.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        channel_grid: the size of the volume, to take its channels as tokens.
        mixer: a name of ``blocks.mixers``. With channels as tokens, ``"conv"`` runs along the channels.
        scan, mixer_options: see :class:`.MixerOptions`.
    """

    def __init__(
        self,
        channels: int,
        conv_op: type[nn.Module],
        channel_grid: Sequence[int] | None = None,
        mixer: str = "mamba",
        scan: str = "raster",
        **mixer_options: Any,
    ):
        super().__init__()
        self.channels_as_tokens = channel_grid is not None
        if channel_grid is not None:
            channels, conv_op = math.prod(channel_grid), nn.Conv1d
        self.norm = nn.LayerNorm(channels)
        self.mamba = sequence_mixer(mixer, channels, conv_op, scan, **mixer_options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        channels, *grid = x.shape[1:]
        with torch.autocast(x.device.type, enabled=False):
            if self.channels_as_tokens:
                y = self.mamba(self.norm(wide(x).flatten(2)), (channels,)).unflatten(2, grid)
            else:
                y = to_volume(self.mamba(self.norm(to_tokens(wide(x))), grid), grid)
        return saturated(y.to(x.dtype))
