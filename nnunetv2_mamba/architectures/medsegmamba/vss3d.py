"""MedSegMamba's bottleneck block (VSS3D): token mixer and MLP, each in a residual branch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.regularization import DropPath
from torch import nn

from ..blocks.half_precision import saturated


class TokenMLP(nn.Sequential):
    """Linear, GELU, dropout, linear, dropout on the last axis."""

    def __init__(self, channels: int, hidden: int, dropout: float):
        super().__init__(
            nn.Linear(channels, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, channels),
            nn.Dropout(dropout),
        )


class VSS3DBlock(nn.Module):
    """``x + DropPath(mixer(LN(x)))``, then ``x + DropPath(MLP(LN(x)))``.

    Args:
        channels: width of the tokens.
        mixer: module called as ``mixer(tokens, grid)``; None leaves the first branch out.
        mlp_channels: hidden width of the MLP.
        dropout, drop_path: rates.
    """

    def __init__(self, channels: int, mixer: nn.Module | None, mlp_channels: int, dropout: float, drop_path: float):
        super().__init__()
        self.mixer = mixer
        if mixer is not None:
            self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = TokenMLP(channels, mlp_channels, dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        if self.mixer is not None:
            tokens = saturated(tokens + self.drop_path(self.mixer(self.norm1(tokens), grid)))
        return saturated(tokens + self.drop_path(self.mlp(self.norm2(tokens))))
