"""U-Mamba's residual block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn

from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturated


class ResidualBlock(nn.Module):
    """Two convolutions with bias and affine instance norm, LeakyReLU(0.01) between and after the sum.

    Args:
        stride: of the first convolution and of the shortcut; needs ``projected``.
        projected: the shortcut is a 1x1 convolution with bias and without norm, else the identity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        stride: Sequence[int] | int = 1,
        projected: bool = True,
    ):
        super().__init__()
        norm = get_matching_instancenorm(conv_op)
        kernel, padding = tuple(kernel_size), same_padding(kernel_size)
        self.conv1 = conv_op(in_channels, out_channels, kernel, stride, padding)
        self.norm1 = norm(out_channels, affine=True)
        self.conv2 = conv_op(out_channels, out_channels, kernel, 1, padding)
        self.norm2 = norm(out_channels, affine=True)
        self.shortcut = conv_op(in_channels, out_channels, 1, stride) if projected else nn.Identity()
        self.nonlin = nn.LeakyReLU(0.01, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(self.nonlin(self.norm1(self.conv1(x)))))
        # A Mamba layer leaves its channels last. oneDNN 3.12 writes past the end of its memory there, in the backward
        # pass of a 2D 1x1 convolution of stride 2 over fewer than 8 channels, 16 with AVX-512 (oneDNN #6035).
        return self.nonlin(saturated(y + self.shortcut(x.contiguous())))
