"""Residual block of UNETR (Hatamizadeh et al. 2022) as in MONAI: the convolutional part of SegMamba."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn

from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturated
from ..blocks.recompute import recomputed

SLOPE = 0.01


class UnetrResBlock(nn.Module):
    """Two convolutions without bias, each with instance norm (not affine), LeakyReLU(0.01) between and after the sum.

    The shortcut is a 1x1 convolution with instance norm where the width changes, else the identity. For the backward
    pass the block keeps its input and the results of its two convolutions; norms, activations and shortcut are cheap
    next to these and computed again.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__()
        padding = same_padding(kernel_size)
        self.conv1 = conv_op(in_channels, out_channels, tuple(kernel_size), padding=padding, bias=False)
        self.conv2 = conv_op(out_channels, out_channels, tuple(kernel_size), padding=padding, bias=False)
        self.shortcut = conv_op(in_channels, out_channels, 1, bias=False) if in_channels != out_channels else None
        self.norm = get_matching_instancenorm(conv_op)(
            out_channels
        )  # no parameters and no statistics: one serves all three convolutions

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = recomputed(self._second_conv, self.conv1(x))
        return self._sum(y, x) if self.shortcut is None else recomputed(self._sum, y, x)

    def _second_conv(self, y: torch.Tensor) -> torch.Tensor:
        # Instance norm as torch computes it, without the view that its module returns: if that were changed in place,
        # autograd would copy the gradient twice.
        instances = y.contiguous().view(1, -1, *y.shape[2:])
        normalised = nn.functional.batch_norm(instances, None, None, training=True, eps=self.norm.eps)
        return self.conv2(nn.functional.leaky_relu_(normalised, SLOPE).view(y.shape))

    def _sum(self, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.norm(self.shortcut(x))
        return nn.functional.leaky_relu_(saturated(self.norm(y) + shortcut), SLOPE)  # the sum is not needed again
