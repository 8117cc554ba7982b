"""The orders in which scans walk a grid, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from nnunetv2_mamba.ops import scan_order


class ScanPaths(NamedTuple):
    """One way to walk a grid.

    Args:
        directions: number of paths.
        table: the paths on a grid, int32 ``(directions, length)``, on a device (see ``ops.scan_order``).
    """

    directions: int
    table: Callable[[tuple[int, ...], torch.device], torch.Tensor]


def _ss3d(orientation: int) -> ScanPaths:
    return ScanPaths(8, lambda grid, device: scan_order.ss3d(grid, orientation, device))


# ss3d_0 to ss3d_5 are MedSegMamba's six orientations.
PATHS = {
    "unidirectional": ScanPaths(1, scan_order.unidirectional),
    "bidirectional": ScanPaths(2, scan_order.bidirectional),
    "tri_oriented": ScanPaths(3, scan_order.tri_oriented),
    **{f"ss3d_{orientation}": _ss3d(orientation) for orientation in range(6)},
}


def scan_paths(scan: str) -> ScanPaths:
    """The paths of this name.

    Raises:
        ValueError: if there are none.
    """
    if scan not in PATHS:
        raise ValueError(f"scan must be one of {', '.join(PATHS)}; got {scan!r}")
    return PATHS[scan]
