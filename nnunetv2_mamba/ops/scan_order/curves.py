"""Orders that follow no rows: Morton's and a random one. Hilbert's has a file of its own."""

from collections.abc import Sequence

import numpy as np

from .grid import token_grid


def morton(shape: Sequence[int]) -> np.ndarray:
    """Walk the grid in Z-order: sorted by the interleaved bits of the coordinates (Morton 1966).

    Every aligned cube of 2, 4, 8, ... voxels along each axis is visited whole before the next one, with jumps between
    them. The order of any size is that of the next powers of two with what lies outside left out.

    Args:
        shape: Grid size, any number of axes; the last one is the fastest.

    Returns:
        int32 (L,), the token visited at each position.

    Example:

        >>> morton((3, 4)).tolist()
        [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 10, 11]
    """
    grid = token_grid(shape)
    # From the lowest bit of a place along the curve upwards: which bit of which axis it is
    places = sorted((bit, -axis) for axis, size in enumerate(shape) for bit in range((size - 1).bit_length()))
    codes = [np.zeros(size, dtype=np.intp) for size in shape]
    for place, (bit, minus_axis) in enumerate(places):
        codes[-minus_axis] |= (np.arange(shape[-minus_axis]) >> bit & 1) << place
    codes_within = np.zeros((), dtype=np.intp)
    for code in codes[1:]:
        codes_within = np.add.outer(codes_within, code)
    curve = np.full(2 ** len(places), -1, dtype=np.int32)
    for first, tokens in zip(codes[0], grid, strict=True):  # a slice at a time: places take eight bytes each
        curve[first + codes_within] = tokens
    return curve[curve >= 0]


def random(shape: Sequence[int], seed: int = 0) -> np.ndarray:
    """Visit the tokens in a random order, the same one for a seed on every machine: the control of all orders.

    Args:
        shape: Grid size, any number of axes.
        seed: From 0 to 2**32 - 1.

    Returns:
        int32 (L,), the token visited at each position.

    Example:

        >>> random((2, 3)).tolist()
        [5, 2, 1, 3, 0, 4]
    """
    order = token_grid(shape).reshape(-1)
    # The older generator, because its numbers are promised never to change (NumPy Enhancement Proposal 19).
    np.random.RandomState(seed).shuffle(order)
    return order
