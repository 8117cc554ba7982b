"""What is measured of one label in one case, and what holds where it is in one of the images only or in neither.

``dice``, ``iou`` and ``volume_similarity`` are ratios of voxel counts. ``hd95``, ``assd`` and ``nsd`` come from the
distances between two surfaces, which are MONAI's (``get_mask_edges``, ``get_surface_distance``): the voxels of a mask
with a face neighbour outside of it or of the image are its surface, and a distance is that from the centre of such a
voxel to the nearest centre of the other surface's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance

from .catalog import METRICS

NEITHER = "in neither image: every metric is NaN and left out of the means; 1 would reward a label's absence"
# Spacings in files are 32-bit: without this a neighbour at 1.0000001 mm would not be within 1 mm.
_SLACK = 1e-5


@dataclass(frozen=True)
class Options:
    """How to measure.

    Attributes:
        nsd_tolerance: millimetres.
        empty_distance: ``hd95`` and ``assd`` of a label in one image only: infinite, or the diagonal of the image.
    """

    nsd_tolerance: float = 1.0
    empty_distance: Literal["inf", "diagonal"] = "inf"

    def __post_init__(self) -> None:
        if not 0 <= self.nsd_tolerance < np.inf:
            raise ValueError(f"the tolerance of NSD must be millimetres from 0 on, got {self.nsd_tolerance}")
        if self.empty_distance not in ("inf", "diagonal"):
            raise ValueError(f"the distance to an empty mask is 'inf' or 'diagonal', not {self.empty_distance!r}")

    @property
    def one_empty(self) -> str:
        """What holds for a label in one image only."""
        distance = {"inf": "infinite", "diagonal": "the diagonal of the image in mm"}[self.empty_distance]
        finite, infinite = (
            [metric.name for metric in METRICS.values() if np.isinf(metric.in_one_image) == wanted]
            for wanted in (False, True)
        )
        return f"in one image only: {_and(finite)} are 0, {_and(infinite)} are {distance}"


def overlap(tp: int, fp: int, fn: int) -> dict[str, float]:
    """``dice``, ``iou`` and ``volume_similarity`` from counts of voxels; NaN where there are none."""
    union, volumes = tp + fp + fn, 2 * tp + fp + fn
    if not union:
        return dict.fromkeys(("dice", "iou", "volume_similarity"), np.nan)
    return {"dice": 2 * tp / volumes, "iou": tp / union, "volume_similarity": 1 - abs(fn - fp) / volumes}


def surface(
    reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...], options: Options, diagonal: float
) -> dict[str, float]:
    """``hd95``, ``assd`` and ``nsd`` of two masks of one shape, of 1, 2 or 3 dimensions.

    Voxels outside of the arrays count as outside of the masks, so both may be cropped to where either has voxels.

    Args:
        reference, prediction: bool.
        spacing: millimetres, one per dimension.
        diagonal: of the uncropped image, in millimetres.
    """
    there = reference.any(), prediction.any()
    if not any(there):
        return dict.fromkeys(("hd95", "assd", "nsd"), np.nan)
    if not all(there):
        values = {name: METRICS[name].in_one_image for name in ("hd95", "assd", "nsd")}
        far = diagonal if options.empty_distance == "diagonal" else np.inf
        return {name: far if np.isinf(value) else value for name, value in values.items()}
    edges = get_mask_edges(prediction, reference, crop=False)
    directions = [
        get_surface_distance(start, end, spacing=spacing).astype(np.float64) for start, end in (edges, edges[::-1])
    ]
    distances = np.concatenate(directions)
    return {
        "hd95": float(max(np.percentile(direction, 95) for direction in directions)),
        "assd": float(distances.mean()),
        "nsd": float((distances <= options.nsd_tolerance * (1 + _SLACK)).mean()),
    }


def _and(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
