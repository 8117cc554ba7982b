"""Volumes as token sequences and back.

Tokens are the C-order raster of the grid, channels last: ``(batch, length, channels)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def to_tokens(volume: torch.Tensor) -> torch.Tensor:
    """Turn ``(batch, channels, *grid)`` into ``(batch, prod(grid), channels)``."""
    return volume.flatten(2).transpose(1, 2)


def to_volume(tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
    """Turn ``(batch, prod(grid), channels)`` into ``(batch, channels, *grid)``."""
    return tokens.transpose(1, 2).unflatten(2, tuple(grid))
