"""How metrics are measured: what a user may choose, and how ``evaluation.json`` records what was chosen."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Literal

VOLUMES, LESIONS, PROBABILITIES = "volumes", "lesions", "probabilities"
GROUPS = {  # of metrics that are measured where a user asks for them
    VOLUMES: "errors of the volume",
    LESIONS: "of labels that are sets of lesions, the connected components",
    PROBABILITIES: "of the network's probabilities, CASE.npz beside the prediction",
}


@dataclass(frozen=True)
class LesionRule:
    """What a lesion is, and how lesions of reference and prediction are matched; the defaults' sources in docs.

    Attributes:
        dilation: how often the reference is dilated, for lesion-wise Dice and HD95. BraTS 2023: 3 for gliomas and
            children's tumours, 1 for meningiomas and metastases.
        connectivity: of components: voxels that touch by a face (6), also by an edge (18), also by a corner (26).
        smallest: mm3; lesions of the reference that are not larger are left out of lesion-wise Dice and HD95. BraTS
            2023: 50, of metastases 2.
        penalty: mm; lesion-wise HD95 of a lesion that is missed or invented. BraTS 2023: 374.
        iou: the least intersection over union of two lesions that lesion-wise F1 matches. ISLES 2026: 0.25.
    """

    dilation: int = 3
    connectivity: Literal[6, 18, 26] = 26
    smallest: float = 50.0
    penalty: float = 374.0
    iou: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.dilation <= 100:
            raise ValueError(f"lesions are dilated 0 to 100 times, not {self.dilation}")
        if self.connectivity not in (6, 18, 26):
            raise ValueError(f"the connectivity of lesions is 6, 18 or 26, not {self.connectivity}")
        if not 0 <= self.smallest < math.inf:
            raise ValueError(f"the volume up to which lesions are left out must be mm3 from 0 on, got {self.smallest}")
        if not 0 <= self.penalty < math.inf:
            raise ValueError(f"the distance of missed lesions must be millimetres from 0 on, got {self.penalty}")
        if not 0 < self.iou <= 1:
            raise ValueError(f"the IoU of matched lesions must be above 0 and at most 1, got {self.iou}")


@dataclass(frozen=True)
class MetricOptions:
    """What a user may choose.

    Attributes:
        nsd_tolerance: millimetres.
        empty_distance: the distance to an empty mask: infinite, or the diagonal of the image.
        groups: of ``GROUPS``, measured besides the metrics that always are.
    """

    nsd_tolerance: float = 1.0
    empty_distance: Literal["inf", "diagonal"] = "inf"
    groups: tuple[str, ...] = ()
    lesions: LesionRule = field(default_factory=LesionRule)

    def __post_init__(self) -> None:
        if not 0 <= self.nsd_tolerance < math.inf:
            raise ValueError(f"the tolerance of NSD must be millimetres from 0 on, got {self.nsd_tolerance}")
        if self.empty_distance not in ("inf", "diagonal"):
            raise ValueError(f"the distance to an empty mask is 'inf' or 'diagonal', not {self.empty_distance!r}")
        if unknown := [group for group in self.groups if group not in GROUPS]:
            raise ValueError(f"no group of metrics {', '.join(unknown)}; there are {', '.join(GROUPS)}")


@dataclass(frozen=True)
class Setting:
    """What the values of some metrics depend on, and models that are compared must have alike.

    Attributes:
        key: under ``evaluation`` in ``evaluation.json``.
        name: in sentences.
        unit: of a number.
        option: where it stands in ``MetricOptions``; empty where it is no option.
    """

    key: str
    name: str
    unit: str = ""
    option: str = ""

    def chosen(self, options: MetricOptions) -> object:
        """What a user chose of it, if it is an option."""
        return attrgetter(self.option)(options)


NSD_TOLERANCE = Setting("nsd_tolerance_mm", "the tolerance of NSD", "mm", "nsd_tolerance")
LESION_CONNECTIVITY = Setting("lesion_connectivity", "the connectivity of lesions", "", "lesions.connectivity")
LESION_DILATION = Setting("lesion_dilation", "how often lesions are dilated", "", "lesions.dilation")
LESION_SMALLEST = Setting("lesion_volume_mm3", "the volume up to which lesions are left out", "mm3", "lesions.smallest")
LESION_PENALTY = Setting("lesion_penalty_mm", "the distance of missed and invented lesions", "mm", "lesions.penalty")
LESION_IOU = Setting("lesion_iou", "the least IoU of matched lesions", "", "lesions.iou")
EMPTY_DISTANCE = Setting("empty_distance", "the distance to an empty mask", "", "empty_distance")
LABELS = Setting("labels", "the labels behind the structures' names")  # every metric depends on them
