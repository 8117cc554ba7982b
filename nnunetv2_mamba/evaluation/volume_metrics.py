"""Errors of a label's volume: of how much there is, wherever it lies."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .metric import metric
from .metric_options import VOLUMES, MetricOptions

if TYPE_CHECKING:
    from .mask_pair import MaskPair


@metric(
    "Absolute volume error",
    "ml; |volume of the prediction - volume of the reference| (ISLES)",
    unit="ml", decimals=3, lower_is_better=True, one_empty="function", group=VOLUMES,
)  # fmt: skip
def absolute_volume_error(pair: MaskPair, _: MetricOptions) -> float:
    return abs(pair.n_prediction - pair.n_reference) * pair.voxel_volume / 1000


@metric(
    "Relative volume error",
    "absolute volume error / volume of the reference; infinite where the reference has none",
    lower_is_better=True, one_empty="function", group=VOLUMES,
)  # fmt: skip
def relative_volume_error(pair: MaskPair, _: MetricOptions) -> float:
    return abs(pair.n_prediction - pair.n_reference) / pair.n_reference if pair.n_reference else math.inf
