"""The orders in which scans walk a grid, by name: what a network takes as ``scan``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch

from nnunetv2_mamba.extensions import module_of_caller
from nnunetv2_mamba.ops import scan_order
from nnunetv2_mamba.ops.scan_order.named_paths import REVERSE, register_paths

ORIENTATIONS = 6  # of the serpentines


class ScanPaths(NamedTuple):
    """One way to walk a grid.

    Attributes:
        name: of a table of ``ops.scan_order``.
        options: of that table.
        module: what registered it.
    """

    name: str
    options: tuple[int, ...] = ()
    module: str = scan_order.__name__

    def directions(self, dims: int) -> int:
        """Number of paths over a grid of ``dims`` axes."""
        return scan_order.directions(self.name, dims)

    def table(self, grid: Sequence[int], device: torch.device) -> torch.Tensor:
        """The paths on a grid, int32 ``(directions, length)``, on a device (see ``ops.scan_order``)."""
        return scan_order.table(self.name, grid, device, *self.options)


# What a network takes; each with the reversals that it does not have yet, too.
SCANS = ["raster", "bidirectional", "tri_oriented", "six_axes", "serpentine", "morton", "hilbert", "random"]
# MedSegMamba's six orientations, of which a layer has one: a network takes "serpentine".
_OF_LAYERS = [f"ss3d_{orientation}" for orientation in range(ORIENTATIONS)]
# What a layer takes.
PATHS = {
    **{scan: ScanPaths(scan.replace("serpentine", "ss3d")) for name in SCANS for scan in (name, name + REVERSE)},
    **{name: ScanPaths("ss3d", (orientation,)) for orientation, name in enumerate(_OF_LAYERS)},
    "unidirectional": ScanPaths("raster"),  # as raster was called
}


def register_scan(name: str, *orders: Callable[[Sequence[int]], np.ndarray]) -> None:
    """Add a scan that every network then takes as ``scan=name``, and with the reversals as ``name+reverse``.

    The reversals are those of all paths, also where one is the reversal of another.

    Args:
        name: letters, digits and ``_``, in lower case.
        orders: one function for each path. It takes the size of a grid, of one to three axes as far as networks are
            to have it there, and gives the token visited at each position: an array of whole numbers of the grid's
            number of voxels, as the functions of ``ops.scan_order`` do.

    Raises:
        ValueError: if the name is taken or no such word; when a network scans, if a path does not visit every token
            once.
    """
    if name in PATHS:
        raise ValueError(f"two scan orders are named {name}; give yours another name")
    register_paths(name, *orders)
    SCANS.append(name)
    module = module_of_caller()  # the functions may be this package's, or partials
    PATHS.update({scan: ScanPaths(scan, module=module) for scan in (name, name + REVERSE)})


def scan_paths(scan: str) -> ScanPaths:
    """The paths of this name, those of a layer included.

    Raises:
        ValueError: if there are none.
    """
    return PATHS[scan if scan in _OF_LAYERS else check_scan(scan)]


def check_scan(scan: Any) -> str:
    """Return ``scan`` if it is what a network takes.

    Raises:
        ValueError: otherwise.
    """
    if not isinstance(scan, str) or scan not in PATHS or scan in _OF_LAYERS:
        raise ValueError(f"scan must be one of {', '.join(SCANS)}, or one of them and {REVERSE}; got {scan!r}")
    return scan


def scan_of_block(scan: str, block: int) -> str:
    """What the block of this number, counted through a network, takes where the network takes ``scan``.

    Serpentines change their orientation from block to block, as in MedSegMamba; others stay.

    Raises:
        ValueError: for an unknown ``scan``.
    """
    turning = check_scan(scan).removesuffix(REVERSE) == "serpentine"  # it has its reversals
    return f"ss3d_{block % ORIENTATIONS}" if turning else scan


def scans_of_stages(scan: str, n_blocks: Sequence[int]) -> list[list[str]]:
    """The same for every block of every stage, where the stages have so many."""
    blocks = count()
    return [[scan_of_block(scan, next(blocks)) for _ in range(n)] for n in n_blocks]
