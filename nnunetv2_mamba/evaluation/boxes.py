"""Boxes in arrays, as tuples of slices."""

from __future__ import annotations

from collections.abc import Iterable

Box = tuple[slice, ...]


def joint_box(boxes: Iterable[Box | None], n_axes: int) -> Box:
    """Find the smallest box around some, of which None are empty; it is one voxel if all are."""
    boxes = [box for box in boxes if box is not None] or [(slice(0, 1),) * n_axes]
    return tuple(slice(min(s.start for s in side), max(s.stop for s in side)) for side in zip(*boxes, strict=True))
