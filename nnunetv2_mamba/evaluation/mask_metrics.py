"""Metrics of the overlap and of the surfaces of two masks, which are always measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .metric import SLACK, metric
from .metric_options import NSD_TOLERANCE, MetricOptions

if TYPE_CHECKING:
    from .mask_pair import MaskPair


@metric("Dice", "2 TP / (2 TP + FP + FN)")
def dice(pair: MaskPair, _: MetricOptions) -> float:
    return 2 * pair.tp / (2 * pair.tp + pair.fp + pair.fn)


@metric("IoU", "TP / (TP + FP + FN)")
def iou(pair: MaskPair, _: MetricOptions) -> float:
    return pair.tp / (pair.tp + pair.fp + pair.fn)


@metric("Volume similarity", "1 - |FN - FP| / (2 TP + FP + FN)")
def volume_similarity(pair: MaskPair, _: MetricOptions) -> float:
    return 1 - abs(pair.fn - pair.fp) / (2 * pair.tp + pair.fp + pair.fn)


@metric(
    "HD95",
    "mm; the larger of the two directions' 95th percentiles of the surface distances (linear interpolation)",
    unit="mm", decimals=2, lower_is_better=True, one_empty="distance",
)  # fmt: skip
def hd95(pair: MaskPair, _: MetricOptions) -> float:
    from numpy import percentile

    return max(percentile(distances, 95) for distances in pair.directed_distances)


@metric(
    "ASSD",
    "mm; mean of the surface distances of both directions together",
    unit="mm", decimals=2, lower_is_better=True, one_empty="distance",
)  # fmt: skip
def assd(pair: MaskPair, _: MetricOptions) -> float:
    return pair.distances.mean()


@metric(
    "NSD",
    "share of the surface voxels of both masks whose surface distance is at most the tolerance",
    depends_on=(NSD_TOLERANCE,), condition=" at {nsd_tolerance:g} mm",
)  # fmt: skip
def nsd(pair: MaskPair, options: MetricOptions) -> float:
    return (pair.distances <= options.nsd_tolerance * (1 + SLACK)).mean()
