"""Boxes around a region of a volume."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

Box = tuple[slice, ...]


def largest_parts(segmentation: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    """Mask the largest connected part of each of the labels, so that a stray voxel does not move a box."""
    mask = np.zeros(segmentation.shape, dtype=bool)
    for label in labels:
        parts, n_parts = ndimage.label(segmentation == label)
        if n_parts:
            sizes = np.bincount(parts.ravel())
            mask |= parts == 1 + np.argmax(sizes[1:])
    return mask


def box_of_size(mask: np.ndarray, size: Sequence[int]) -> Box:
    """Put a box of the size (voxels per axis) around the region, which is in its middle.

    It is moved where it would leave the volume, cut where the volume is smaller, and larger where the region is.

    Raises:
        ValueError: for an empty mask.
    """
    box = []
    for region, wanted, length in zip(_bounds(mask), size, mask.shape, strict=True):
        extent = region.stop - region.start
        wanted = min(max(wanted, extent), length)
        start = region.start - (wanted - extent) // 2
        start = min(max(start, 0), length - wanted)
        box.append(slice(start, start + wanted))
    return tuple(box)


def box_with_margin(mask: np.ndarray, margin: Sequence[int]) -> Box:
    """Put a box around the region, ``margin`` voxels per axis larger on each side, as far as the volume goes.

    Raises:
        ValueError: for an empty mask.
    """
    return tuple(
        slice(max(region.start - more, 0), min(region.stop + more, length))
        for region, more, length in zip(_bounds(mask), margin, mask.shape, strict=True)
    )


def _bounds(mask: np.ndarray) -> Box:
    if not mask.any():
        raise ValueError("there is no region to put a box around")
    (bounds,) = ndimage.find_objects(mask.astype(np.uint8))
    return bounds
