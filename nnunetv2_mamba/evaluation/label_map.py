"""A segmentation as it lies in a file: its labels, checked, and its place in space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from ..image_files import check_complete, whole_numbers


@dataclass(frozen=True)
class Geometry:
    """Shape and spacing in the order of the array's axes; origin and direction as the file's format gives them.

    Formats without a place in space (PNG, TIFF) have neither of the latter.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...] | None = None
    direction: tuple[float, ...] | None = None

    def differences(self, other: Geometry) -> list[str]:
        """What differs by more than rounding in a file: 1e-4 of a spacing or direction, 1 % of a voxel of an origin."""
        voxel = min(self.spacing)
        tolerances = {
            "shape": {"rtol": 0, "atol": 0},
            "spacing": {"rtol": 1e-4, "atol": 0},
            "origin": {"rtol": 0, "atol": 0.01 * voxel},
            "direction": {"rtol": 0, "atol": 1e-4},
        }
        return [
            f"{name} {_show(getattr(self, name))} and {_show(getattr(other, name))}"
            for name, tolerance in tolerances.items()
            if not _close(getattr(self, name), getattr(other, name), tolerance)
        ]


@dataclass(frozen=True)
class LabelMap:
    """One file's labels.

    Attributes:
        indices: unsigned integers, 3 axes: 1 for the first of the known values, 2 for the second, ... and 0 for others.
    """

    indices: np.ndarray
    geometry: Geometry


def read_label_map(
    file: Path, reader: type[BaseReaderWriter], known: tuple[int, ...], ignore: int | None = None
) -> LabelMap:
    """Read a file with one of nnU-Net's readers.

    Args:
        known: values that the file may have, ascending.
        ignore: a further such value, of index 0.

    Raises:
        ValueError: the file, named, is damaged, cannot be read or has other values.
    """
    check_complete(file)
    try:
        array, properties = reader().read_seg(str(file))
    except Exception as error:  # what a reader raises depends on the format's library
        raise ValueError(f"{file} cannot be read: {error or type(error).__name__}") from error
    if array.ndim != 4 or len(array) != 1:
        raise ValueError(f"{file} is not one image of labels, its array has the shape {array.shape}")
    values = pd.unique(array.ravel())
    allowed = [*known, *([] if ignore is None else [ignore])]
    others = np.setdiff1d(whole_numbers(values, file), allowed)
    if len(others):
        shown = ", ".join(map(str, others[:10])) + (", ..." if len(others) > 10 else "")
        raise ValueError(f"{file} has values that are no label in dataset.json: {shown}")
    table = np.zeros(max(allowed) + 1, dtype=np.min_scalar_type(len(known)))
    table[list(known)] = np.arange(1, len(known) + 1)
    geometry = _geometry(array.shape[1:], properties)
    if not all(0 < length < np.inf for length in geometry.spacing):
        raise ValueError(f"{file} has the spacing {_show(geometry.spacing)}; it must be above zero, correct the header")
    return LabelMap(table[array[0].astype(np.int32)], geometry)


def _geometry(shape: tuple[int, ...], properties: dict) -> Geometry:
    """From what nnU-Net's readers call ``properties``."""
    origin = direction = None
    if "sitk_stuff" in properties:
        origin, direction = (properties["sitk_stuff"][key] for key in ("origin", "direction"))
    elif "nibabel_stuff" in properties:
        affines = properties["nibabel_stuff"]
        affine = np.asarray(affines.get("reoriented_affine", affines["original_affine"]))  # the array's
        origin = affine[:3, 3]
        direction = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel()
    place = [None if numbers is None else tuple(map(float, numbers)) for numbers in (origin, direction)]
    return Geometry(tuple(shape), tuple(map(float, properties["spacing"])), *place)


def _close(first: tuple | None, second: tuple | None, tolerance: dict[str, float]) -> bool:
    if first is None or second is None:
        return first is second
    return len(first) == len(second) and np.allclose(first, second, **tolerance)


def _show(values: tuple | None) -> str:
    return "none" if values is None else f"({', '.join(f'{value:.6g}' for value in values)})"
