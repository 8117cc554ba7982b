"""The paper's two tasks: which structures, their FreeSurfer ids and names.

The ids are those that MedSegMamba's released script writes; names are FreeSurfer's (``FreeSurferColorLUT.txt``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

HIPPOCAMPI = (17, 53)  # left and right

# FreeSurfer's files of the left and of the right side use the same ids; in one volume they are told apart by this.
_SIDES = {"Left": 1000, "Right": 2000}
_ASEG = {
    4: "Left-Lateral-Ventricle",
    5: "Left-Inf-Lat-Vent",
    7: "Left-Cerebellum-White-Matter",
    8: "Left-Cerebellum-Cortex",
    10: "Left-Thalamus",
    11: "Left-Caudate",
    12: "Left-Putamen",
    13: "Left-Pallidum",
    14: "3rd-Ventricle",
    15: "4th-Ventricle",
    16: "Brain-Stem",
    17: "Left-Hippocampus",
    18: "Left-Amygdala",
    24: "CSF",
    26: "Left-Accumbens-area",
    28: "Left-VentralDC",
    31: "Left-choroid-plexus",
    43: "Right-Lateral-Ventricle",
    44: "Right-Inf-Lat-Vent",
    46: "Right-Cerebellum-White-Matter",
    47: "Right-Cerebellum-Cortex",
    49: "Right-Thalamus",
    50: "Right-Caudate",
    51: "Right-Putamen",
    52: "Right-Pallidum",
    53: "Right-Hippocampus",
    54: "Right-Amygdala",
    58: "Right-Accumbens-area",
    60: "Right-VentralDC",
    63: "Right-choroid-plexus",
    77: "WM-hypointensities",
}
_SUBFIELDS = {
    203: "parasubiculum",
    204: "presubiculum",
    205: "subiculum",
    206: "CA1",
    208: "CA3",
    209: "CA4",
    210: "GC-ML-DG",
    211: "HATA",
    212: "fimbria",
    214: "molecular_layer_HP",
    215: "hippocampal_fissure",
    226: "HP_tail",
}


@dataclass(frozen=True)
class Task:
    """What a data set shall contain.

    Attributes:
        dataset_name: of nnU-Net's ``DatasetXXX_NAME``, unless the user names it.
        structures: FreeSurfer id to name, in the order of the labels 1, 2, ... of the data set.
        box_mm: edge of the cube around the hippocampi that images are cropped to; None for whole images.
    """

    dataset_name: str
    structures: Mapping[int, str]
    box_mm: int | None = None


TASKS = {
    "subcortical": Task("Subcortical", _ASEG),
    "hippocampus": Task(
        "HippocampalSubfields",
        {number + offset: f"{side}-{name}" for side, offset in _SIDES.items() for number, name in _SUBFIELDS.items()},
        box_mm=96,
    ),
}


def classes_from_ids(ids: np.ndarray, task: Task) -> np.ndarray:
    """Turn FreeSurfer ids into the data set's labels (uint8, same shape); what the task has not becomes 0."""
    table = np.zeros(max(task.structures) + 1, dtype=np.uint8)
    table[list(task.structures)] = np.arange(1, len(task.structures) + 1)
    return table[np.where((ids >= 0) & (ids < len(table)), ids, 0)]


def both_sides(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Put the subfields of both files into one volume, with the task's ids; other labels become 0.

    Raises:
        ValueError: where a voxel is of both sides.
    """
    subfields = [
        np.where(np.isin(side, list(_SUBFIELDS)), side + offset, 0)
        for side, offset in zip((left, right), _SIDES.values(), strict=True)
    ]
    overlap = np.count_nonzero(np.logical_and(*subfields))
    if overlap:
        raise ValueError(f"{overlap} voxels are subfields of the left and of the right side")
    return subfields[0] + subfields[1]
