"""Depthwise convolution over the token grid: the convolutional twin of a sequence mixer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from .dimensions import same_padding
from .tokens import to_tokens, to_volume


class DepthwiseConv(nn.Module):
    """A depthwise convolution of tokens ``(batch, length, channels)`` on their grid, size-preserving, with bias."""

    def __init__(self, channels: int, conv_op: type[nn.Module], kernel_size: Sequence[int]):
        super().__init__()
        self.conv = conv_op(channels, channels, tuple(kernel_size), padding=same_padding(kernel_size), groups=channels)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        return to_tokens(self.conv(to_volume(tokens, grid)))


def kernel_size_for(weights_per_channel: float, dims: int) -> tuple[int, ...]:
    """Return an odd kernel size over ``dims`` axes, as cubic as possible, with about ``weights_per_channel`` weights.

    Neighbouring axes differ by at most 2; a volume of 183 weights becomes (5, 5, 7) = 175.
    """
    edge = weights_per_channel ** (1 / dims)
    low = max(1, int((edge - 1) // 2) * 2 + 1)
    candidates = itertools.combinations_with_replacement((low, low + 2), dims)
    return min(candidates, key=lambda k: abs(torch.Size(k).numel() - weights_per_channel))
