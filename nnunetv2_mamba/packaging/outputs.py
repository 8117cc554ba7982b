"""The files that are written of a case beside its segmentation, as they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath

PROBABILITY, VOLUMES, NPZ, PROPERTIES = KINDS = ("probability", "volumes", "npz", "properties")
# Of probability maps: the largest whole number, with which NIfTI divides (scl_slope). Neither NIfTI nor MetaImage knows
# half precision, and MetaImage no slope.
ENCODINGS = {"uint8": 255, "uint16": 65535, "float32": None}


@dataclass(frozen=True)
class Output:
    """A file of a case.

    Attributes:
        kind: of ``KINDS``: the probability of a label or region in every voxel; the labels' volumes in the
            segmentation, in ml, as JSON; as nnU-Net saves them, all probabilities, and the properties of the case.
        path: of the file.
        label: its name in ``dataset.json``; of volumes, the only one, whose number is then all that the file holds.
        encoding: of ``ENCODINGS``, for probabilities; float32 for files that are no NIfTI.
    """

    kind: str
    path: PurePath
    label: str = ""
    encoding: str = "float32"

    def __post_init__(self):
        if self.kind not in KINDS or self.encoding not in ENCODINGS:
            raise ValueError(f"no output is {self.kind!r} in {self.encoding!r}")
