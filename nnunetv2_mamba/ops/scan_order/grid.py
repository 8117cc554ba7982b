"""Grids of tokens: the checks that all orders share."""

from collections.abc import Sequence
from math import prod

import numpy as np


def check_shape(shape: Sequence[int]) -> None:
    """Raise ValueError for a shape without axes, with an empty one, or with too many tokens for an int32 table."""
    if len(shape) == 0 or any(size < 1 for size in shape):
        raise ValueError(f"shape must have at least one axis and no empty one, got {tuple(shape)}")
    if prod(shape) > np.iinfo(np.int32).max:
        raise ValueError(f"shape {tuple(shape)} has more tokens than an int32 table can number")


def token_grid(shape: Sequence[int]) -> np.ndarray:
    """int32 of that shape: the number of every token, in C order."""
    check_shape(shape)
    return np.arange(prod(shape), dtype=np.int32).reshape(shape)
