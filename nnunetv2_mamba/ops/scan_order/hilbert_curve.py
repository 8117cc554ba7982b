"""A Hilbert curve through any box, without a jump.

Hilbert's curve walks a square whose sides are one power of two. Červený's generalisation ("gilbert",
github.com/jakubcerveny/gilbert) divides any box into parts that are walked from corner to corner; where sizes are odd
it may need diagonal steps, in 3D in particular. Here a box is divided so that none is ever needed.

A walk through a box from a corner to the other end of one of its edges exists only if that edge has an even size, or
all sizes are odd: the voxels are coloured like a chessboard, and every step changes the colour. The division below
makes parts of that kind only, so that every step of the curve, by induction, goes to a neighbour.

A walk is a string of directions, a byte a step. Parts of the same sizes are turned or mirrored copies of each other,
made from one of them by `bytes.translate`, and each level of the division has few different sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from .grid import check_shape

# A direction is twice the axis, plus one for the way back. A part has axes a, b, c; it is walked from its low corner to
# the high end of a.
_A, _B, _C = 0, 2, 4
_BACK = 1
_CHUNK = 2**20  # steps that are looked up at once, which needs eight bytes for each
_Sizes = tuple[int, int, int]
_Directions = tuple[int, int, int]


def hilbert(shape: Sequence[int]) -> np.ndarray:
    """Walk the grid along a Hilbert curve: what is near in the sequence is near in the grid, at every scale.

    Every step goes to a 6-neighbour (4-neighbour in 2D), whatever the sizes; the walk starts at token 0. Where the
    sizes are one power of two, every aligned block of half, a quarter, ... that size is walked whole before the next.

    Args:
        shape: Grid size, one to three axes.

    Returns:
        int32 (L,), the token visited at each position.

    Example:

        >>> hilbert((4, 4)).tolist()
        [0, 4, 5, 1, 2, 3, 7, 6, 10, 11, 15, 14, 13, 9, 8, 12]
    """
    check_shape(shape)
    if len(shape) > 3:
        raise ValueError(f"shape must have one to three axes, got {tuple(shape)}")
    height, width, depth = (*shape, 1, 1)[:3]
    moves = np.array([sign * stride for stride in (width * depth, depth, 1) for sign in (1, -1)], dtype=np.int32)
    directions = np.frombuffer(_walk((height, width, depth)), dtype=np.uint8)
    order = np.zeros(prod(shape), dtype=np.int32)
    for start in range(0, len(directions), _CHUNK):
        order[1 + start : 1 + start + _CHUNK] = moves[directions[start : start + _CHUNK]]
    return np.cumsum(order, out=order)


def _walk(sizes: _Sizes) -> bytes:
    """Directions of a walk from the low corner of a box to an end that suits its sizes."""
    longest, *others = sorted(range(3), key=lambda axis: -sizes[axis])
    even = [axis for axis in (longest, *others) if sizes[axis] % 2 == 0]
    along = even[0] if even else longest
    if 2 * sizes[longest] <= 3 * sizes[along]:
        return _walk_along(sizes, along, {})
    # Only short axes have a walk from end to end, and to return along the long one would separate neighbours.
    first, rest = list(sizes), list(sizes)
    first[longest] = _half(sizes[longest])
    rest[longest] -= first[longest]
    return _walk_along(first, longest, {}) + bytes([2 * longest]) + _walk(tuple(rest))


def _walk_along(sizes: Sequence[int], along: int, known: dict[_Sizes, bytes]) -> bytes:
    """Directions of a walk from the low corner of a box to the high end of one of its axes."""
    axes = along, *(axis for axis in range(3) if axis != along)
    walk = _walk_of_part(tuple(sizes[axis] for axis in axes), known)
    return _turned(walk, tuple(2 * axis for axis in axes))


def _walk_of_part(sizes: _Sizes, known: dict[_Sizes, bytes]) -> bytes:
    a, b, c = sizes
    if b < c:
        return _turned(_walk_of_part((a, c, b), known), (_A, _C, _B))
    if b == 1:
        return bytes([_A]) * (a - 1)
    if sizes not in known:
        known[sizes] = b"".join(
            bytes([piece]) if isinstance(piece, int) else _turned(_walk_of_part(piece[0], known), piece[1])
            for piece in _divided(a, b, c)
        )
    return known[sizes]


def _divided(a: int, b: int, c: int) -> list[int | tuple[_Sizes, _Directions]]:
    """The parts of a part, with the steps between them: sizes along the part's own axes, and where those point.

    Args:
        a, b, c: sizes, ``b >= c``, ``b > 1``; ``a`` is even, or all are odd and ``a > 1``.
    """
    if a == b == 2:
        return [_B, _A, _B | _BACK] if c == 1 else [_B, _C, _B | _BACK, _A, _B, _C | _BACK, _B | _BACK]
    half = _half(a)
    if 2 * a > 3 * b:
        return [((half, b, c), (_A, _B, _C)), _A, ((a - half, b, c), (_A, _B, _C))]
    if a % 2 or 3 * b > 4 * c:  # up, along, and down again
        low = _half(b)
        return [
            ((low, c, half), (_B, _C, _A)),
            _B,
            ((a, b - low, c), (_A, _B, _C)),
            _B | _BACK,
            ((low, c, a - half), (_B | _BACK, _C, _A | _BACK)),
        ]
    # Hilbert's eight octants, of which two and two, and two again, are walked as one. Two of those run along the whole
    # of q, whose size must be even; where p and q are odd, half of a must be odd, too.
    (p, up), (q, across) = ((b, _B), (c, _C)) if b % 2 else ((c, _C), (b, _B))
    if q % 2:
        half = a // 2 | 1
    low, near = _half(p), _half(q)
    return [
        ((low, near, half), (up, across, _A)),
        up,
        ((q, half, p - low), (across, _A, up)),
        up | _BACK,
        ((a, low, q - near), (_A, up | _BACK, across | _BACK)),
        up,
        ((q, a - half, p - low), (across | _BACK, _A | _BACK, up)),
        up | _BACK,
        ((low, near, a - half), (up | _BACK, across, _A | _BACK)),
    ]


def _half(size: int) -> int:
    """Half of it, made even where there are more than two."""
    return size // 2 + (size // 2) % 2 if size > 2 else size // 2


def _turned(walk: bytes, directions: Sequence[int]) -> bytes:
    """The walk with its axes a, b, c pointing elsewhere."""
    return walk.translate(bytes(way ^ back for way in directions for back in (0, _BACK)).ljust(256))
