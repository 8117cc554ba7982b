"""What the networks' scans consist of: the paths of a name over a grid."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from .curves import morton, random
from .hilbert_curve import hilbert
from .rows import inter_slice, raster, serpentine

REVERSE = "+reverse"


def paths(name: str, shape: Sequence[int], *options: int) -> list[np.ndarray]:
    """The paths of this name over a grid, each int32 (L,), possibly views; for the arguments see `table`."""
    named, reversed_too = _named(name)
    forward = named.paths(shape, *options)
    return [*forward, *(forward[index][::-1] for index in named.one_way if reversed_too)]


@lru_cache
def directions(name: str, dims: int) -> int:
    """How many paths this name has over a grid of so many axes.

    Example:

        >>> directions("six_axes", 2), directions("six_axes", 3)
        (4, 6)
    """
    return len(paths(name, (1,) * dims))


def _both_ways(forward: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [*forward, *(path[::-1] for path in forward)]


def _tri_oriented(shape: Sequence[int]) -> list[np.ndarray]:
    return [*_both_ways([raster(shape)]), inter_slice(shape)]


def _six_axes(shape: Sequence[int]) -> list[np.ndarray]:
    axes = range(len(shape))
    return _both_ways([raster(shape, [*axes[first:], *axes[:first]]) for first in axes])


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


def _ss3d(shape: Sequence[int], orientation: int = 0) -> list[np.ndarray]:
    if orientation not in range(len(_SS3D_AXES)):
        raise ValueError(f"orientation must be 0 to {len(_SS3D_AXES) - 1}, got {orientation}")
    if len(shape) == 3:
        even, odd = _SS3D_AXES[orientation]
        forward = [serpentine(shape, (even, odd)[k % 2], _SS3D_STARTS[k]) for k in range(4)]
    elif len(shape) == 2:
        rows, columns = (0, 1), (1, 0)
        even, odd = (rows, columns) if orientation % 2 == 0 else (columns, rows)
        # The slow axis starts low: paths that differ only there could be each other's reversals.
        forward = [
            serpentine(shape, even),
            serpentine(shape, odd),
            serpentine(shape, even, [axis == even[1] for axis in range(2)]),
            serpentine(shape, odd, [axis == odd[1] for axis in range(2)]),
        ]
    elif len(shape) == 1:
        forward = [serpentine(shape)]
    else:
        raise ValueError(f"shape must have one to three axes, got {tuple(shape)}")
    return _both_ways(forward)


class _Paths(NamedTuple):
    """The function that makes them, and which of them are not walked backwards by another."""

    paths: Callable[..., list[np.ndarray]]
    one_way: tuple[int, ...]


_NAMED = {
    "raster": _Paths(lambda shape: [raster(shape)], (0,)),
    "bidirectional": _Paths(lambda shape: _both_ways([raster(shape)]), ()),
    "tri_oriented": _Paths(_tri_oriented, (2,)),
    "six_axes": _Paths(_six_axes, ()),
    "ss3d": _Paths(_ss3d, ()),
    "morton": _Paths(lambda shape: [morton(shape)], (0,)),
    "hilbert": _Paths(lambda shape: [hilbert(shape)], (0,)),
    "random": _Paths(lambda shape: [random(shape)], (0,)),
}


def register_paths(name: str, *orders: Callable[[Sequence[int]], np.ndarray]) -> None:
    """Give a name to paths, of each of which the reversal is no other one; see ``scan_paths.register_scan``."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(f"a scan order's name must be letters, digits and _, in lower case; got {name!r}")
    if name in _NAMED:
        raise ValueError(f"two scan orders are named {name}; give yours another name")
    if not orders:
        raise ValueError(f"the scan order {name} has no paths")
    one_way = tuple(range(len(orders)))
    _NAMED[name] = _Paths(lambda shape: [_checked(name, order, shape) for order in orders], one_way)


def _checked(name: str, order: Callable[[Sequence[int]], np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """A stranger's path as the kernels need it: they look tokens up without asking whether there are any."""
    try:
        path = np.asarray(order(shape))
    except Exception as error:  # whatever a stranger's function may raise
        raise ValueError(
            f"the scan order {name} fails on a grid {tuple(shape)}: {type(error).__name__}: {error}"
        ) from error
    seen = np.zeros(prod(shape), dtype=bool)
    if path.shape == seen.shape and path.dtype.kind in "iu" and path.min() >= 0 and path.max() < len(seen):
        seen[path] = True
    if not seen.all():
        raise ValueError(f"the scan order {name} does not visit every token of a grid {tuple(shape)} once")
    return np.array(path, dtype=np.int32, order="C")  # a copy: theirs may be a view, read-only, or changed later


def _named(name: str) -> tuple[_Paths, bool]:
    """The entry, and whether the name asks for reversals too."""
    if name.removesuffix(REVERSE) not in _NAMED:
        raise ValueError(f"name must be one of {', '.join(_NAMED)}, or one of them and {REVERSE}; got {name!r}")
    return _NAMED[name.removesuffix(REVERSE)], name.endswith(REVERSE)
