"""Ways to walk a grid of voxels, as index tables.

Tokens are numbered in C order of the grid: token `(i * W + j) * D + k` is voxel `(i, j, k)` of an `(H, W, D)` grid. A
table maps scan position to token, so flips, transposes and serpentines cost the scan a lookup and never a copy.

The first group of functions builds one order as a numpy int32 array of shape (L,); the second composes orders into the
tables the networks use, int32 tensors of shape (K, L) that come from a cache and must not be written to.
"""

import operator
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod

import numpy as np
import torch

# ---------------------------------------------------------------------------------------------------------------------
# One order


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
    return np.ascontiguousarray(_token_grid(shape).transpose(_checked_axes(shape, axes))).reshape(-1)


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
    grid = _token_grid(shape)
    grid = np.flip(grid, [axis for axis, high in enumerate(start) if high])
    path = grid.transpose(_checked_axes(shape, axes)).copy()
    while path.ndim > 1:
        path[..., 1::2, :] = path[..., 1::2, ::-1]
        path = path.reshape(*path.shape[:-2], -1)
    return path


def _token_grid(shape: Sequence[int]) -> np.ndarray:
    if len(shape) == 0 or any(size < 1 for size in shape):
        raise ValueError(f"shape must have at least one axis and no empty one, got {tuple(shape)}")
    if prod(shape) > np.iinfo(np.int32).max:
        raise ValueError(f"shape {tuple(shape)} has more tokens than an int32 table can number")
    return np.arange(prod(shape), dtype=np.int32).reshape(shape)


def _checked_axes(shape: Sequence[int], axes: Sequence[int] | None) -> Sequence[int]:
    if axes is None:
        return range(len(shape))
    if sorted(axes) != list(range(len(shape))):
        raise ValueError(f"axes must be a permutation of the axes of shape {tuple(shape)}, got {tuple(axes)}")
    return axes


# ---------------------------------------------------------------------------------------------------------------------
# Tables of several directions


def unidirectional(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (1, L): raster.

    Example:

        >>> unidirectional((2, 2)).tolist()
        [[0, 1, 2, 3]]
    """
    return _table("unidirectional", shape, device)


def bidirectional(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (2, L): raster and its reversal.

    Example:

        >>> bidirectional((2, 2)).tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0]]
    """
    return _table("bidirectional", shape, device)


def tri_oriented(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (3, L): raster, its reversal, and inter-slice along the first axis (SegMamba's ToM).

    Example:

        >>> tri_oriented((2, 2)).tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3]]
    """
    return _table("tri_oriented", shape, device)


def ss3d(shape: Sequence[int], orientation: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (8, L): MedSegMamba's eight serpentines over a 3D grid, for one of its six orientations.

    Directions 4 to 7 are the reversals of 0 to 3. Any grid size works; the reference is restricted to a cube. Where
    the sizes are odd along some axes and even along others, two of the eight paths can coincide.

    A 2D grid has only eight serpentines, two axis orders times four corners, closed under reversal. Its table holds all
    of them: an even orientation gives directions 0 and 2 the rows, an odd one the columns.

    Args:
        shape: Grid size, two or three axes.
        orientation: 0 to 5.
        device: Where the table shall be.

    Example:

        >>> ss3d((2, 2, 2), orientation=0).shape
        torch.Size([8, 8])
        >>> ss3d((2, 2, 2), orientation=0)[0].tolist()
        [0, 1, 3, 2, 6, 7, 5, 4]
    """
    return _table("ss3d", shape, device, orientation)


def _unidirectional(shape: Sequence[int]) -> list[np.ndarray]:
    return [raster(shape)]


def _bidirectional(shape: Sequence[int]) -> list[np.ndarray]:
    return [raster(shape), reverse(raster(shape))]


def _tri_oriented(shape: Sequence[int]) -> list[np.ndarray]:
    return [raster(shape), reverse(raster(shape)), inter_slice(shape)]


# Axes (slow, middle, fast) of directions 0 and 2, and of directions 1 and 3, for each orientation.
_SS3D_AXES = (
    ((0, 1, 2), (1, 2, 0)),
    ((1, 0, 2), (2, 1, 0)),
    ((2, 1, 0), (0, 2, 1)),
    ((0, 2, 1), (1, 0, 2)),
    ((1, 2, 0), (2, 0, 1)),
    ((2, 0, 1), (0, 1, 2)),
)
# Whether directions 0 to 3 start at the high end of each axis of the volume, whatever the orientation.
_SS3D_STARTS = ((False, False, False), (False, True, True), (True, False, True), (True, True, False))


def _ss3d(shape: Sequence[int], orientation: int) -> list[np.ndarray]:
    if orientation not in range(len(_SS3D_AXES)):
        raise ValueError(f"orientation must be 0 to {len(_SS3D_AXES) - 1}, got {orientation}")
    if len(shape) == 3:
        even, odd = _SS3D_AXES[orientation]
        paths = [serpentine(shape, (even, odd)[k % 2], _SS3D_STARTS[k]) for k in range(4)]
    elif len(shape) == 2:
        rows, columns = (0, 1), (1, 0)
        even, odd = (rows, columns) if orientation % 2 == 0 else (columns, rows)
        # The slow axis starts low: paths that differ only there could be each other's reversals.
        paths = [
            serpentine(shape, even),
            serpentine(shape, odd),
            serpentine(shape, even, [axis == even[1] for axis in range(2)]),
            serpentine(shape, odd, [axis == odd[1] for axis in range(2)]),
        ]
    else:
        raise ValueError(f"shape must have two or three axes, got {tuple(shape)}")
    return paths + [reverse(path) for path in paths]


# How many paths each table has, and the function that builds them.
_TABLES: dict[str, tuple[int, Callable[..., list[np.ndarray]]]] = {
    "unidirectional": (1, _unidirectional),
    "bidirectional": (2, _bidirectional),
    "tri_oriented": (3, _tri_oriented),
    "ss3d": (8, _ss3d),
}


def _table(name: str, shape: Sequence[int], device: torch.device | str, *options: int) -> torch.Tensor:
    # While torch.compile traces, a size may be a symbol; a table is made for the number it stands for.
    grid, device = tuple(operator.index(size) for size in shape), torch.device(device)
    if torch.compiler.is_dynamo_compiling():
        return _table_in_graph(name, grid, device, list(options))
    # Under a FakeTensorMode a new tensor is fake: it must not enter the cache, nor may a cached one be used.
    if type(torch.empty(0, device="cpu")) is not torch.Tensor:
        return _make_table(name, grid, device, *options)
    return _cached_table(name, grid, device, *options)


@torch.library.custom_op(
    "nnunetv2_mamba::scan_order_table",
    mutates_args=(),
    schema="(str name, int[] grid, Device device, int[] options) -> Tensor",
)
def _table_in_graph(name, grid, device, options):
    """How a compiled graph comes by a table: no release of torch before 2.15 takes two as constants of one graph.

    It is a copy, because the graph may use the memory of an operator's result again.
    """
    return _cached_table(name, tuple(grid), device, *options).clone()


@_table_in_graph.register_fake
def _table_in_graph_fake(name, grid, device, options):
    return torch.empty(_TABLES[name][0], prod(grid), dtype=torch.int32, device=device)


def _make_table(name: str, grid: tuple[int, ...], device: torch.device, *options: int) -> torch.Tensor:
    # An inference tensor could not be saved for a later backward.
    with torch.inference_mode(False):
        return torch.tensor(np.stack(_TABLES[name][1](grid, *options)), dtype=torch.int32, device=device)


_cached_table = lru_cache(maxsize=128)(_make_table)
