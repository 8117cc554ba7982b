"""Residual block of UNETR (Hatamizadeh et al. 2022) as in MONAI: the convolutional part of SegMamba."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .dimensions import instance_norm, same_padding, spatial_dims
from .half_precision import saturated


class UnetrResBlock(nn.Module):
    """Two convolutions without bias, each with instance norm (not affine), LeakyReLU(0.01) between and after the sum.

    The shortcut is a 1x1 convolution with instance norm where the width changes, else the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__()
        norm = instance_norm(spatial_dims(conv_op))
        padding = same_padding(kernel_size)
        self.conv1 = conv_op(in_channels, out_channels, tuple(kernel_size), padding=padding, bias=False)
        self.conv2 = conv_op(out_channels, out_channels, tuple(kernel_size), padding=padding, bias=False)
        self.shortcut = conv_op(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        self.norm = norm(out_channels)  # no parameters and no statistics: one serves all three convolutions
        self.nonlin = nn.LeakyReLU(0.01, inplace=True)  # the norms and the sum before it are not needed again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.norm(self.shortcut(x))
        y = self.norm(self.conv2(self.nonlin(self.norm(self.conv1(x)))))
        return self.nonlin(saturated(y + shortcut))
