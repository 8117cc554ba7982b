"""MedSegMamba's convolutional blocks: convolution with bias, GroupNorm(8), ReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturated

GROUPS = 8


class _GroupNorm(nn.GroupNorm):
    """Group norm in its input's dtype: under CUDA's autocast it would hand on fp32, twice the memory."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).to(x.dtype)


class ConvNormReLU(nn.Sequential):
    """Convolution with bias, GroupNorm(8), ReLU; keeps the grid.

    Raises:
        ValueError: if ``out_channels`` is not a multiple of 8.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        if out_channels % GROUPS:
            raise ValueError(f"features_per_stage must be multiples of {GROUPS} (group norm), got {out_channels}")
        super().__init__(
            conv_op(in_channels, out_channels, tuple(kernel_size), padding=same_padding(kernel_size)),
            _GroupNorm(GROUPS, out_channels),
            nn.ReLU(inplace=True),
        )


class ConvBlock(nn.Sequential):
    """Two :class:`ConvNormReLU`."""

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__(
            ConvNormReLU(in_channels, out_channels, conv_op, kernel_size),
            ConvNormReLU(out_channels, out_channels, conv_op, kernel_size),
        )


class ResConvBlock(nn.Module):
    """``conv1x1(x) + ConvBlock(x)``, the shortcut's convolution always there, nothing after the sum."""

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__()
        self.convs = ConvBlock(in_channels, out_channels, conv_op, kernel_size)
        self.shortcut = conv_op(in_channels, out_channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return saturated(self.shortcut(x) + self.convs(x))


class UpConv(nn.Sequential):
    """Nearest-neighbour upsampling by ``stride``, then :class:`ConvNormReLU`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        stride: Sequence[int],
    ):
        super().__init__(
            nn.Upsample(scale_factor=tuple(float(s) for s in stride), mode="nearest"),
            ConvNormReLU(in_channels, out_channels, conv_op, kernel_size),
        )
