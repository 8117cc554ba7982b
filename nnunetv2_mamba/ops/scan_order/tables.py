"""Tables of several directions: int32 tensors of shape (K, L), from a cache, which must not be written to."""

import operator
from collections.abc import Sequence
from functools import lru_cache
from math import prod

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .named_paths import directions, paths


def table(name: str, shape: Sequence[int], device: torch.device | str = "cpu", *options: int) -> torch.Tensor:
    """int32 (K, L): the paths of this name over a grid.

    Args:
        name: "raster", "bidirectional", "tri_oriented", "six_axes", "ss3d", "morton", "hilbert" or "random". With
            "+reverse" at its end, the reversals of those paths follow whose reversals are not among them.
        shape: Grid size.
        device: Where the table shall be.
        options: The orientation, for "ss3d".

    Example:

        >>> table("hilbert+reverse", (2, 2)).tolist()
        [[0, 1, 3, 2], [2, 3, 1, 0]]
    """
    # While torch.compile traces, a size may be a symbol; a table is made for the number it stands for.
    grid, device = tuple(operator.index(size) for size in shape), torch.device(device)
    if torch.compiler.is_dynamo_compiling():
        return _table_in_graph(name, grid, device, list(options))
    # Under a FakeTensorMode a new tensor is fake: it must not enter the cache, nor may a cached one be used.
    empty = torch.empty(0, device=device)
    if type(empty) is not torch.Tensor:
        return torch.tensor(_stacked(paths(name, grid, *options)), device=device)
    return _cached_table(name, grid, empty.device, *options)  # which of several GPUs "cuda" is


def unidirectional(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (1, L): raster.

    Example:

        >>> unidirectional((2, 2)).tolist()
        [[0, 1, 2, 3]]
    """
    return table("raster", shape, device)


def bidirectional(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (2, L): raster and its reversal.

    Example:

        >>> bidirectional((2, 2)).tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0]]
    """
    return table("bidirectional", shape, device)


def tri_oriented(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (3, L): raster, its reversal, and inter-slice along the first axis (SegMamba's ToM).

    Example:

        >>> tri_oriented((2, 2)).tolist()
        [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3]]
    """
    return table("tri_oriented", shape, device)


def six_axes(shape: Sequence[int], device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (6, L) in 3D, (4, L) in 2D: rasters with each axis as the fastest once, and their reversals.

    The axes keep their cyclic order.

    Example:

        >>> six_axes((2, 2)).tolist()
        [[0, 1, 2, 3], [0, 2, 1, 3], [3, 2, 1, 0], [3, 1, 2, 0]]
    """
    return table("six_axes", shape, device)


def ss3d(shape: Sequence[int], orientation: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """int32 (8, L): MedSegMamba's eight serpentines over a 3D grid, for one of its six orientations.

    Directions 4 to 7 are the reversals of 0 to 3. Any grid size works; the reference is restricted to a cube. Where
    the sizes are odd along some axes and even along others, two of the eight paths can coincide.

    A 2D grid has only eight serpentines, two axis orders times four corners, closed under reversal. Its table holds all
    of them: an even orientation gives directions 0 and 2 the rows, an odd one the columns. A line has two, there and
    back.

    Args:
        shape: Grid size, one to three axes.
        orientation: 0 to 5.
        device: Where the table shall be.

    Example:

        >>> ss3d((2, 2, 2), orientation=0).shape
        torch.Size([8, 8])
        >>> ss3d((2, 2, 2), orientation=0)[0].tolist()
        [0, 1, 3, 2, 6, 7, 5, 4]
    """
    return table("ss3d", shape, device, orientation)


_inverses = WeakTensorKeyDictionary()  # of tables that are alive: (their version, the inverse)


def inverse(table: torch.Tensor) -> torch.Tensor:
    """int32 (K, L): the position of each token on each path; made once for a table, which it must not outlive.

    Example:

        >>> inverse(torch.tensor([[2, 0, 1]], dtype=torch.int32)).tolist()
        [[1, 2, 0]]
    """
    # Memory of a CUDA graph that is being captured is that graph's, and a fake tensor has none.
    captured = table.is_cuda and torch.cuda.is_current_stream_capturing()
    kept = not captured and not table.is_inference() and type(table) is torch.Tensor
    version, positions = _inverses.get(table, (None, None)) if kept else (None, None)
    if version is None or version != table._version:
        with torch.inference_mode(False):
            order = torch.arange(table.shape[1], dtype=table.dtype, device=table.device).expand_as(table)
            positions = torch.empty_like(table).scatter_(1, table.long(), order)
        if kept and type(positions) is torch.Tensor:
            _inverses[table] = table._version, positions
    return positions


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
    return torch.empty(directions(name, len(grid)), prod(grid), dtype=torch.int32, device=device)


@lru_cache(maxsize=128)
def _cached_table(name: str, grid: tuple[int, ...], device: torch.device, *options: int) -> torch.Tensor:
    # An inference tensor could not be saved for a later backward.
    with torch.inference_mode(False):
        return torch.from_numpy(_stacked(paths(name, grid, *options))).to(device)


def _stacked(orders: list[np.ndarray]) -> np.ndarray:
    return np.stack(orders) if len(orders) > 1 else orders[0][np.newaxis]  # without a copy
