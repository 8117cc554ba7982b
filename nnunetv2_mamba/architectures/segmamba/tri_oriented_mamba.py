"""SegMamba's tri-oriented Mamba (ToM) layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..blocks.half_precision import saturated
from ..blocks.mixers import sequence_mixer
from ..blocks.tokens import to_tokens, to_volume


class TriOrientedMambaLayer(nn.Module):
    """``x + Mamba(LayerNorm(x))`` on the raster of a volume: forward, reverse and inter-slice direction.

    SegMamba (Xing et al. 2024), ToM. The inter-slice direction walks the first spatial axis for each position of the
    others, for any grid; the released code does so only where that axis of the patch is 128.

    Args:
        channels: width.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        residual: False reproduces checkpoints from before 5 June 2024, when the released code had no residual here.
        dt_init: ``"first"`` as in the released code, ``"all"`` as in Mamba (see :class:`DirectionalSSM`).
        mixer: a name of ``blocks.mixers``.
        scan, mixer_options: see :class:`.MixerOptions`.
    """

    def __init__(
        self,
        channels: int,
        conv_op: type[nn.Module],
        residual: bool = True,
        dt_init: str = "first",
        mixer: str = "mamba",
        scan: str = "tri_oriented",
        **mixer_options: Any,
    ):
        super().__init__()
        self.residual = residual
        self.norm = nn.LayerNorm(channels)
        self.mamba = sequence_mixer(mixer, channels, conv_op, scan, dt_init=dt_init, **mixer_options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[2:]
        y = to_volume(self.mamba(self.norm(to_tokens(x)), grid), grid)
        return saturated(x + y) if self.residual else y
