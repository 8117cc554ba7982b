"""How metrics are measured: what a user may choose, and how ``evaluation.json`` records what was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Setting:
    """What the values of some metrics depend on, and models that are compared must have alike.

    Attributes:
        key: under ``evaluation`` in ``evaluation.json``.
        name: in sentences.
        unit: of a number.
    """

    key: str
    name: str
    unit: str = ""


NSD_TOLERANCE = Setting("nsd_tolerance_mm", "the tolerance of NSD", "mm")
ONE_EMPTY = Setting("empty", "the rule for a structure in one image only")
LABELS = Setting("labels", "the labels behind the structures' names")  # every metric depends on them


@dataclass(frozen=True)
class MetricOptions:
    """What a user may choose.

    Attributes:
        nsd_tolerance: millimetres.
        empty_distance: the distance to an empty mask: infinite, or the diagonal of the image.
    """

    nsd_tolerance: float = 1.0
    empty_distance: Literal["inf", "diagonal"] = "inf"

    def __post_init__(self) -> None:
        if not 0 <= self.nsd_tolerance < math.inf:
            raise ValueError(f"the tolerance of NSD must be millimetres from 0 on, got {self.nsd_tolerance}")
        if self.empty_distance not in ("inf", "diagonal"):
            raise ValueError(f"the distance to an empty mask is 'inf' or 'diagonal', not {self.empty_distance!r}")
