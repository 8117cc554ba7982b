"""Self-attention and learned position embedding: the transformer that MedSegMamba is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..blocks.depthwise_conv import DepthwiseConv, kernel_size_for
from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import saturated
from ..blocks.mixers import OWN_MIXERS, check_mixer
from ..blocks.tokens import to_tokens, to_volume


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens (Vaswani et al. 2017), query-key-value without bias.

    Args:
        d_model: width, a multiple of ``heads``.
        conv_op: tells the number of axes of the grid to the ``"conv"`` control.
        dropout: after the output projection.
        mixer: ``"mamba"`` stands for the network's own mixer, here attention; ``"none"`` lets every token attend to
            itself only; ``"conv"`` puts a depthwise convolution of about as many weights as query and key have in place
            of the attention matrix.

    Raises:
        ValueError: if ``d_model`` is not a multiple of ``heads``; for an unknown ``mixer``.
    """

    def __init__(
        self,
        d_model: int,
        conv_op: type[nn.Module],
        heads: int = 16,
        dropout: float = 0.0,
        mixer: str = "mamba",
    ):
        super().__init__()
        if d_model % heads:
            raise ValueError(f"bottleneck_channels must be a multiple of the {heads} attention heads, got {d_model}")
        self.mixer = check_mixer(mixer, OWN_MIXERS, " with attention")
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model if mixer == "mamba" else d_model, bias=False)
        if mixer == "conv":
            self.conv = DepthwiseConv(d_model, conv_op, kernel_size_for(2 * d_model, spatial_dims(conv_op)))
        self.proj = nn.Linear(d_model, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """Map ``(batch, length, d_model)`` to the same shape; ``grid`` is the shape whose raster the tokens are."""
        x = self.qkv(tokens)
        if self.mixer == "mamba":
            q, k, v = x.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            x = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        elif self.mixer == "conv":
            x = self.conv(x, grid)
        return self.dropout(self.proj(x))


class PositionEmbedding(nn.Module):
    """One learned vector per grid position, added to the tokens; interpolated linearly for another grid."""

    def __init__(self, channels: int, grid: Sequence[int], dropout: float = 0.0):
        super().__init__()
        self.grid = tuple(grid)
        self.embedding = nn.Parameter(torch.zeros(1, torch.Size(self.grid).numel(), channels))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        embedding = self.embedding
        if tuple(grid) != self.grid:
            mode = {2: "bilinear", 3: "trilinear"}[len(self.grid)]
            volume = to_volume(embedding, self.grid)
            embedding = to_tokens(nn.functional.interpolate(volume, tuple(grid), mode=mode, align_corners=False))
        return self.dropout(saturated(tokens + embedding))
