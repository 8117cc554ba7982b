"""Metrics of a label that is a set of lesions: how well each was found, not how many voxels were.

Written from the rules, with no line of code of others:

- lesion-wise Dice and HD95: BraTS 2023 (https://www.synapse.org/Synapse:syn51156910/discussion/threadId=10357, and the
  README of https://github.com/rachitsaluja/BraTS-2023-Metrics, which has no licence);
- lesion-wise F1: the recognition quality of Kirillov et al., Panoptic segmentation, CVPR 2019, equation 2, of lesions
  matched one to one as ISLES 2024 and 2026 have panoptica do it (Kofler et al., arXiv:2312.02608);
- lesion count difference: ISLES 2022 and later (https://github.com/ezequieldlrosa/isles22).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .mask_metrics import hd95
from .metric import SLACK, metric
from .metric_options import (
    LESION_CONNECTIVITY,
    LESION_DILATION,
    LESION_IOU,
    LESION_PENALTY,
    LESION_SMALLEST,
    LESIONS,
    MetricOptions,
)

if TYPE_CHECKING:
    from .lesions import Lesion
    from .mask_pair import MaskPair

_BRATS = (LESION_DILATION, LESION_CONNECTIVITY, LESION_SMALLEST)


@metric(
    "Lesion-wise Dice",
    "mean over the reference's lesions of the Dice with the prediction's components that overlap the dilated lesion, 0 "
    "for a missed lesion and for every component that overlaps none; lesions that touch when dilated are one, small "
    "ones are left out (BraTS 2023)",
    one_empty="function", depends_on=_BRATS, group=LESIONS,
)  # fmt: skip
def lesion_dice(pair: MaskPair, options: MetricOptions) -> float:
    scores = [2 * lesion.tp / (lesion.n_reference + lesion.n_prediction) for lesion in _counted(pair, options)]
    return _mean([*scores, *[0.0] * pair.lesions.n_invented])


@metric(
    "Lesion-wise HD95",
    "mm; as lesion-wise Dice, of HD95, with the penalty for what is missed or overlaps no lesion (BraTS 2023)",
    unit="mm", decimals=2, lower_is_better=True, one_empty="function", depends_on=(*_BRATS, LESION_PENALTY),
    group=LESIONS,
)  # fmt: skip
def lesion_hd95(pair: MaskPair, options: MetricOptions) -> float:
    penalty = options.lesions.penalty
    scores = [
        hd95(pair.part(*pair.lesions.masks(lesion)), options) if lesion.components else penalty
        for lesion in _counted(pair, options)
    ]
    return _mean([*scores, *[penalty] * pair.lesions.n_invented])


@metric(
    "Lesion-wise F1",
    "2 TP / (lesions of the reference + lesions of the prediction), where TP pairs of lesions are matched one to one, "
    "those of the largest IoU first, down to the least IoU (ISLES 2026)",
    one_empty="function", depends_on=(LESION_CONNECTIVITY, LESION_IOU), condition=" at IoU {lesions[iou]:g}",
    group=LESIONS,
)  # fmt: skip
def lesion_f1(pair: MaskPair, options: MetricOptions) -> float:
    lesions = pair.lesions
    return 2 * lesions.one_to_one(options.lesions.iou) / (lesions.n_reference + lesions.n_prediction)


@metric(
    "Lesion count difference",
    "|lesions of the prediction - lesions of the reference| (ISLES)",
    decimals=2, lower_is_better=True, one_empty="function", depends_on=(LESION_CONNECTIVITY,), group=LESIONS,
)  # fmt: skip
def lesion_count_difference(pair: MaskPair, _: MetricOptions) -> float:
    return abs(pair.lesions.n_prediction - pair.lesions.n_reference)


def _counted(pair: MaskPair, options: MetricOptions) -> list[Lesion]:
    """Give the lesions of the reference that are larger than the smallest volume."""
    smallest = options.lesions.smallest * (1 + SLACK)
    return [lesion for lesion in pair.lesions.merged if lesion.n_reference * pair.voxel_volume > smallest]


def _mean(scores: list[float]) -> float:
    """NaN where no lesion counts and none was invented: there is nothing to be found, as in ``metrics.NEITHER``."""
    return sum(scores) / len(scores) if scores else math.nan
