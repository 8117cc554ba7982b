"""nnU-Net's convolution block."""

from __future__ import annotations

from collections.abc import Sequence

from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn

from .dimensions import same_padding


class PlainConvBlock(nn.Sequential):
    """Twice a convolution with bias, affine instance norm and LeakyReLU(0.01), as in nnU-Net's ``PlainConvUNet``.

    Not dynamic-network-architectures' ``StackedConvBlocks``, which registers every layer under two names, so that its
    ``state_dict`` holds every tensor twice.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        norm, padding = get_matching_instancenorm(conv_op), same_padding(kernel_size)
        layers: list[nn.Module] = []
        for width in (in_channels, out_channels):
            layers.append(conv_op(width, out_channels, tuple(kernel_size), padding=padding))
            layers.append(norm(out_channels, affine=True))
            layers.append(nn.LeakyReLU(0.01, inplace=True))
        super().__init__(*layers)
