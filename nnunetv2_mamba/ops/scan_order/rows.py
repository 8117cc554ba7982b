"""Orders that walk a grid row by row."""

from collections.abc import Sequence

import numpy as np

from .grid import token_grid


def raster(shape: Sequence[int], axes: Sequence[int] | None = None) -> np.ndarray:
    """Walk the grid row by row.

    Args:
        shape: Grid size, any number of axes.
        axes: The axes from the slowest to the fastest; None for C order (the identity).

    Returns:
        int32 (L,), the token visited at each position.

    Example:

        >>> raster((2, 3), axes=(1, 0)).tolist()
        [0, 3, 1, 4, 2, 5]
    """
    return np.ascontiguousarray(token_grid(shape).transpose(_checked_axes(shape, axes))).reshape(-1)


def reverse(order: np.ndarray) -> np.ndarray:
    """Walk `order` (L,) backwards.

    Example:

        >>> reverse(raster((2, 3))).tolist()
        [5, 4, 3, 2, 1, 0]
    """
    return np.ascontiguousarray(order[::-1])


def inter_slice(shape: Sequence[int], axis: int = 0) -> np.ndarray:
    """Visit the same voxel of every slice along `axis` before moving to the next voxel of the slice.

    SegMamba's third direction: `axis` becomes the fastest, the others keep their raster order. int32 (L,).

    Example:

        >>> inter_slice((2, 2, 2)).tolist()
        [0, 4, 1, 5, 2, 6, 3, 7]
    """
    if axis not in range(len(shape)):
        raise ValueError(f"axis must be one of the {len(shape)} axes of shape {tuple(shape)}, got {axis}")
    others = [a for a in range(len(shape)) if a != axis]
    return raster(shape, [*others, axis])


def serpentine(
    shape: Sequence[int], axes: Sequence[int] | None = None, start: Sequence[bool] | None = None
) -> np.ndarray:
    """Walk the grid without a jump: every step goes to a 6-neighbour (4-neighbour in 2D).

    Odd rows of a plane are walked backwards, and each odd plane is the exact reversal of the plane's path.

    Args:
        shape: Grid size, any number of axes.
        axes: The axes from the slowest to the fastest; None for C order.
        start: For each axis of `shape`, whether the walk starts at its high end; None starts at the low corner.

    Returns:
        int32 (L,), the token visited at each position.

    Example:

        >>> serpentine((3, 3)).tolist()
        [0, 1, 2, 5, 4, 3, 6, 7, 8]
    """
    start = [False] * len(shape) if start is None else start
    if len(start) != len(shape):
        raise ValueError(f"start must have one entry per axis of shape {tuple(shape)}, got {tuple(start)}")
    grid = token_grid(shape)
    grid = np.flip(grid, [axis for axis, high in enumerate(start) if high])
    path = grid.transpose(_checked_axes(shape, axes)).copy()
    while path.ndim > 1:
        path[..., 1::2, :] = path[..., 1::2, ::-1]
        path = path.reshape(*path.shape[:-2], -1)
    return path


def _checked_axes(shape: Sequence[int], axes: Sequence[int] | None) -> Sequence[int]:
    if axes is None:
        return range(len(shape))
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"axes must be a permutation of the axes of shape {tuple(shape)}, got {tuple(axes)}")
    return axes
