"""A case's images as nnU-Net's reader of a model gives them: the geometry that the model was trained with."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.spatialimages import SpatialImage
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from ..files import written_whole
from ..image_files import check_complete
from ..text import last_line, times
from .volumes import grid_difference, itk_affine, on_grid_of, open_volume, voxels

_REORIENTED = "RAS"  # what nnU-Net's readers that reorient turn images to


@dataclass(frozen=True)
class Scan:
    """Images of one case on one voxel grid.

    The way between the axes of the file and those of the array is kept, not found anew from the turned image: an image
    oblique by 45 degrees is as near to two orientations.

    Attributes:
        array: (channels, z, y, x), float32.
        spacing: of z, y, x as nnU-Net is told it, mm.
        file_axes: nibabel's orientation of the axes x, y, z in the file.
        axes: of the axes x, y, z of the array.
    """

    array: np.ndarray
    spacing: tuple[float, ...]
    file_axes: np.ndarray
    axes: np.ndarray

    def turned_to(self, orientation: str) -> Scan:
        """Permute and flip the axes to an orientation like ``LIA``; no voxel changes its place in space."""
        axes = axcodes2ornt(tuple(orientation))
        turn = ornt_transform(self.axes, axes)
        spacing = np.empty(3)
        spacing[turn[:, 0].astype(int)] = self.spacing[::-1]
        array = apply_orientation(self.array.T, turn).T
        return replace(self, array=array, spacing=tuple(spacing[::-1].tolist()), axes=axes)

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Turn an array on this grid (z, y, x) to that of the file (x, y, z)."""
        return apply_orientation(array.T, ornt_transform(self.axes, self.file_axes))

    def from_file(self, array: np.ndarray) -> np.ndarray:
        """Turn an array on the grid of the file (x, y, z) to this one (z, y, x)."""
        return apply_orientation(array, ornt_transform(self.file_axes, self.axes)).T


def read_scan(files: Sequence[Path], reader: type[BaseReaderWriter]) -> Scan:
    """Read a case's images, one file per channel, with a reader of nnU-Net's.

    What these readers do not know, FreeSurfer's formats and further axes of one voxel, they get as NIfTI files with the
    same voxels and place.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for files that are damaged, that the reader refuses or gives values that are not finite, and for
            channels on different voxel grids; the file is named.
    """
    with tempfile.TemporaryDirectory() as folder:
        channels = [_read_channel(file, reader, Path(folder)) for file in files]
    first, place = channels[0]
    for file, (other, other_place) in zip(files[1:], channels[1:], strict=True):
        difference = grid_difference(first.array.shape[:0:-1], place, other.array.shape[:0:-1], other_place)
        if difference:
            raise ValueError(f"{files[0].name} and {file.name} are on different voxel grids: {difference}")
    return replace(first, array=np.concatenate([scan.array for scan, _ in channels]))


def _read_channel(file: Path, reader: type[BaseReaderWriter], folder: Path) -> tuple[Scan, np.ndarray]:
    """Read one file, and the matrix from its voxels x, y, z to mm."""
    image = open_volume(file)
    readable = _readable(image, file, folder)
    try:
        array, properties = reader().read_images([str(readable)])
    except Exception as error:  # what a reader raises depends on the format's library
        raise ValueError(f"{file} cannot be read by nnU-Net's {reader.__name__}: {last_line(error)}") from error
    spacing = tuple(float(length) for length in properties["spacing"])
    affine, file_axes, axes = _place(file, properties)
    scan = Scan(array, spacing, file_axes, axes)
    if len(array) != 1 or array.ndim != 4 or scan.to_file(array[0]).shape != image.shape:
        raise ValueError(f"{file}: nnU-Net's {reader.__name__} makes an array of the shape {array.shape} of it")
    if not all(np.isfinite(length) and length > 0 for length in spacing):
        raise ValueError(f"{file} has voxels of {times(spacing[::-1])} mm")
    if not np.isfinite(array).all():
        raise ValueError(f"{file} has NaN or infinite values, which nnU-Net's {reader.__name__} hands to the network")
    return scan, affine


def _readable(image: SpatialImage, file: Path, folder: Path) -> Path:
    """Give a whole file that nnU-Net's readers know: the file itself, or a copy in the folder."""
    if not isinstance(image, nibabel.Nifti1Image):
        _axes(file, image.affine)  # refuses what has none
    elif len(nibabel.load(file).shape) == 3:
        check_complete(file)
        return file
    with written_whole(folder / "image.nii") as temporary:  # one at a time: it is read at once
        nibabel.save(on_grid_of(image, voxels(image)), temporary)
    return folder / "image.nii"


def _place(file: Path, properties: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the matrix of the array as read, and the orientations of the file and of the array."""
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        affine = itk_affine(stuff["spacing"], stuff["origin"], stuff["direction"])
        original = stuff.get("original_orientation")
        file_axes = _axes(file, affine) if original is None else axcodes2ornt(tuple(original))
        reoriented = original is not None
    else:
        stuff = properties["nibabel_stuff"]
        affine = stuff.get("reoriented_affine", stuff["original_affine"])
        file_axes = _axes(file, stuff["original_affine"])
        reoriented = "reoriented_affine" in stuff
    return affine, file_axes, axcodes2ornt(tuple(_REORIENTED)) if reoriented else file_axes


def _axes(file: Path, affine: np.ndarray) -> np.ndarray:
    axes = io_orientation(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    if np.isnan(axes).any():
        raise ValueError(f"{file} has no place in space: its axes are not independent")
    return axes
