"""FreeSurfer's and NIfTI volumes: reading, turning, resampling, writing."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from nibabel.processing import conform
from nibabel.spatialimages import HeaderDataError, SpatialImage

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
ORIENTATION = "LIA"  # of FreeSurfer's conformed volumes: the axes run to the left, down and to the front


def read_volume(file: Path) -> SpatialImage:
    """Open a volume; its voxels are read when used.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for what is no volume of 3 axes, naming the file.
    """
    try:
        image = nibabel.load(file)
    except FileNotFoundError:
        raise
    except (ImageFileError, HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
    if len(image.shape) != 3:
        raise ValueError(f"{file} has the shape {image.shape}; a volume of 3 axes is needed")
    return image


def voxels(image: SpatialImage) -> np.ndarray:
    """The array as the file has it, in the machine's byte order.

    Raises:
        ValueError: where the file is damaged, naming it.
    """
    try:
        array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{image.get_filename()} is damaged: {error}") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def label_voxels(image: SpatialImage) -> np.ndarray:
    """The array as int32.

    Raises:
        ValueError: where voxels are no whole numbers, naming the file.
    """
    array = voxels(image)
    labels = array.astype(np.int32)
    if not np.array_equal(labels, array):
        raise ValueError(f"{image.get_filename()} has values that are no whole numbers, so they are no labels")
    return labels


def reoriented(image: SpatialImage, orientation: str) -> SpatialImage:
    """The image with its axes permuted and flipped to the orientation (of oblique images, to the nearest one).

    No voxel changes its value or its place in space.
    """
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(orientation))))


def turned_back(array: np.ndarray, orientation: str, original: SpatialImage) -> np.ndarray:
    """An array on the grid of ``reoriented(original, orientation)``, on the grid of ``original``.

    The way back is the inverse of the way there: an image oblique by 45 degrees is as near to two orientations, so that
    the orientation read off the turned image may be the other one.
    """
    back = ornt_transform(axcodes2ornt(tuple(orientation)), io_orientation(original.affine))
    return apply_orientation(array, back)


def conformed(image: SpatialImage, order: int) -> SpatialImage:
    """The image in LIA at 1 mm: resampled about its centre where it has other voxels, else only turned.

    Args:
        order: of the spline that interpolates; 0 for labels, which takes the nearest voxel's.
    """
    image = reoriented(image, ORIENTATION)
    zooms = np.array(image.header.get_zooms())
    if np.allclose(zooms, 1, atol=1e-3):
        return image
    shape = tuple(int(n) for n in np.ceil(np.array(image.shape) * zooms - 1e-3))
    return conform(image, shape, (1.0, 1.0, 1.0), order=order, orientation=ORIENTATION)


def grid_difference(image: SpatialImage, other: SpatialImage) -> str | None:
    """How the voxel grids differ, in words; None where each corner lies within 1 % of a voxel of the other's."""
    if image.shape != other.shape:
        return f"shape {_show(image.shape)} and {_show(other.shape)}"
    corners = np.array(np.meshgrid(*((0, n - 1) for n in image.shape))).reshape(3, -1)
    offset = nibabel.affines.apply_affine(image.affine - other.affine, corners.T)
    distance = np.linalg.norm(offset, axis=1).max()
    if distance > 0.01 * min(image.header.get_zooms()):
        return f"places up to {distance:.3g} mm apart"
    return None


def write_volume(image: nibabel.Nifti1Image, file: Path) -> None:
    """Write ``.nii.gz``, under its name only when complete."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        with gzip.open(partial, "wb", compresslevel=6) as stream:
            image.to_stream(stream)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def nifti(array: np.ndarray, affine: np.ndarray) -> nibabel.Nifti1Image:
    """An image whose place in space is in both of NIfTI's forms, because some programs read one, some the other."""
    image = nibabel.Nifti1Image(array, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def _show(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
