"""The metrics, an entry for each: all that tables, statistics and reports must know of it.

How a metric is computed stands in ``metrics``, which is not imported where only this is needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A metric of one label in one case.

    Attributes:
        name: in tables and files.
        title: in reports.
        definition: in ``evaluation.json`` and in the methods paragraph.
        unit: ``"mm"``, or empty for a share from 0 to 1.
        decimals: shown in reports.
        lower_is_better: whether the best value is the smallest.
        best: where a prediction rightly lacks a label that the reference lacks, and another model's does not.
        in_one_image: where a label is in one of the images only.
        settings: keys of ``evaluation`` in ``evaluation.json`` that the value depends on, besides the labels.
    """

    name: str
    title: str
    definition: str
    unit: str = ""
    decimals: int = 4
    lower_is_better: bool = False
    best: float = 1.0
    in_one_image: float = 0.0
    settings: frozenset[str] = frozenset()

    @property
    def heading(self) -> str:
        return f"{self.title} [{self.unit}]" if self.unit else self.title

    @property
    def direction(self) -> str:
        return "lower is better" if self.lower_is_better else "higher is better"

    def number(self, value: float) -> str:
        """The value as reports show it, without the unit."""
        return "unknown" if math.isnan(value) else f"{value:.{self.decimals}f}"


def _distance(name: str, title: str, definition: str) -> Metric:
    return Metric(
        name, title, definition, unit="mm", decimals=2, lower_is_better=True, best=0.0, in_one_image=math.inf,
        settings=frozenset({"empty"}),
    )  # fmt: skip


_ENTRIES = (
    Metric("dice", "Dice", "2 TP / (2 TP + FP + FN)"),
    Metric("iou", "IoU", "TP / (TP + FP + FN)"),
    Metric("volume_similarity", "Volume similarity", "1 - |FN - FP| / (2 TP + FP + FN)"),
    _distance(
        "hd95",
        "HD95",
        "mm; the larger of the two directions' 95th percentiles of the surface distances (linear interpolation)",
    ),
    _distance("assd", "ASSD", "mm; mean of the surface distances of both directions together"),
    Metric(
        "nsd",
        "NSD",
        "share of the surface voxels of both masks whose surface distance is at most the tolerance",
        settings=frozenset({"nsd_tolerance_mm"}),
    ),
)
METRICS = {metric.name: metric for metric in _ENTRIES}
DEFAULT = ("dice", "hd95", "nsd")  # of a comparison
