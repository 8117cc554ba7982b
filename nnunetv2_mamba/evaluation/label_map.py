"""A segmentation as it lies in a file: its labels, checked, and its place in space."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from ..image_files import check_complete, whole_numbers
from ..text import listed


@dataclass(frozen=True)
class Geometry:
    """Shape and spacing in the order of the array's axes; origin and direction as the file's format gives them.

    Formats without a place in space (PNG, TIFF) have neither of the latter: they are empty.

    Attributes:
        says_spacing: whether the file does; else the spacing is what the reader takes instead.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()
    says_spacing: bool = True

    def differences(self, other: Geometry) -> list[str]:
        """Say what differs by more than rounding: 1e-4 of a spacing or a direction, 1 % of a voxel of an origin.

        Each is compared on its own, so that the message names what a user can correct. Prediction and reference come
        from the same image; what two programs that wrote it leave of its numbers, 32 bits or a few decimals, lies well
        below, and nothing is resampled, so that a coarser rule would count voxels that do not lie on each other.
        """
        tolerances = {
            "shape": {"rtol": 0, "atol": 0},
            "spacing": {"rtol": 1e-4, "atol": 0},
            "origin": {"rtol": 0, "atol": 0.01 * min(self.spacing)},
            "direction": {"rtol": 0, "atol": 1e-4},
        }
        found = []
        for name, tolerance in tolerances.items():
            own, others = getattr(self, name), getattr(other, name)
            if len(own) != len(others) or not np.allclose(own, others, **tolerance):
                found.append(f"{name} {_show(own)} and {_show(others)}")
        return found


@dataclass(frozen=True)
class LabelMap:
    """One file's labels.

    Attributes:
        indices: unsigned integers, 3 axes: 1 for the first of the known values, 2 for the second, ... and 0 for others.
    """

    indices: np.ndarray
    geometry: Geometry

    def with_spacing_of(self, other: LabelMap) -> LabelMap:
        """Take the spacing of an image of the same grid where only that one's file says it."""
        if self.geometry.says_spacing or not other.geometry.says_spacing:
            return self
        return replace(self, geometry=replace(self.geometry, spacing=other.geometry.spacing))


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
        raise ValueError(f"{file} has values that are no label in dataset.json: {listed(others)}")
    table = np.zeros(max(allowed) + 1, dtype=np.min_scalar_type(len(known)))
    table[list(known)] = np.arange(1, len(known) + 1)
    # nnU-Net reads the spacing of a 3D TIFF from a file beside it, which it does not copy to gt_segmentations
    says_spacing = not issubclass(reader, Tiff3DIO) or file.with_suffix(".json").is_file()
    geometry = replace(_geometry(array.shape[1:], properties), says_spacing=says_spacing)
    if not all(0 < length < np.inf for length in geometry.spacing):
        raise ValueError(f"{file} has the spacing {_show(geometry.spacing)}; it must be above zero, correct the header")
    return LabelMap(table[array[0].astype(np.int32)], geometry)


def _geometry(shape: tuple[int, ...], properties: dict) -> Geometry:
    """Take the geometry from what nnU-Net's readers call ``properties``."""
    origin = direction = ()
    if "sitk_stuff" in properties:
        origin, direction = (properties["sitk_stuff"][key] for key in ("origin", "direction"))
    elif "nibabel_stuff" in properties:
        affines = properties["nibabel_stuff"]
        affine = np.asarray(affines.get("reoriented_affine", affines["original_affine"]))  # the array's
        origin = affine[:3, 3]
        direction = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel()
    numbers = (properties["spacing"], origin, direction)
    return Geometry(tuple(shape), *(tuple(map(float, lengths)) for lengths in numbers))


def _show(values: tuple) -> str:
    return f"({', '.join(f'{value:.6g}' for value in values)})" if values else "none"
