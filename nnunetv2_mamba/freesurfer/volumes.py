"""FreeSurfer's and NIfTI volumes: opening, turning, resampling, writing."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.processing import conform
from nibabel.spatialimages import SpatialImage

from ..files import written_whole
from ..image_files import check_complete, read_header
from ..text import last_line, listed, times

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
ORIENTATION = "LIA"  # of FreeSurfer's conformed volumes: the axes run to the left, down and to the front
_LONGEST_MM = 600  # of a head to be resampled to 1 mm: a longer one has wrong units and would fill the memory


def open_volume(file: Path) -> SpatialImage:
    """Open a volume; its voxels are read when used. Further axes of one voxel, as in (x, y, z, 1), are left out.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for what is no volume of 3 axes and plain numbers, naming the file.
    """
    try:
        image = nibabel.load(file)
        kind, shape = image.get_data_dtype().kind, image.shape
    except FileNotFoundError:
        raise
    except Exception as error:  # a header can be wrong in many ways
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
    if len(shape) < 3 or min(shape[:3]) < 1 or any(length != 1 for length in shape[3:]):
        raise ValueError(f"{file} has the shape {shape}; a volume of 3 axes is needed")
    if kind not in "iuf":
        raise ValueError(f"{file} has colours or complex numbers for voxels; plain numbers are needed")
    if len(shape) == 3:
        return image
    return type(image)(image.dataobj.reshape(shape[:3]), image.affine, image.header, file_map=image.file_map)


def read_volume(file: Path) -> SpatialImage:
    """Open a volume with the affine matrix in mm, of NIfTI files that of ITK, with which nnU-Net reads.

    nibabel knows no units and prefers the sform where NIfTI's two forms and the spacing contradict each other.

    Raises:
        FileNotFoundError, ValueError: as ``open_volume``, and for an extent that cannot be of a head (a wrong unit).
    """
    image = open_volume(file)
    if isinstance(image, nibabel.Nifti1Image):
        image = nifti(image.dataobj, _affine_by_itk(file), file_map=image.file_map)
    edges = np.array(image.shape) * np.linalg.norm(image.affine[:3, :3], axis=0)
    if not (edges > 0).all() or not (edges < _LONGEST_MM).all():
        raise ValueError(f"{file} is {times(edges)} mm large: its header must be wrong")
    return image


def _affine_by_itk(file: Path) -> np.ndarray:
    try:
        header = read_header(file)
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be read by ITK: {last_line(error)}") from error
    return itk_affine(header.GetSpacing(), header.GetOrigin(), header.GetDirection())


def itk_affine(spacing: tuple[float, ...], origin: tuple[float, ...], direction: tuple[float, ...]) -> np.ndarray:
    """Make the matrix (4, 4) from voxels x, y, z to mm to the right, the front and up, as NIfTI has it."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (len(spacing), -1))[:3, :3] * np.array(spacing[:3])
    affine[:3, 3] = origin[:3]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def voxels(image: SpatialImage) -> np.ndarray:
    """Read the array as the file has it, in the machine's byte order.

    Raises:
        ValueError: where the file is damaged, naming it.
    """
    name = image.get_filename()
    if name is not None:
        check_complete(Path(name))
    try:
        array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{name} is damaged: {error}") from error
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def label_voxels(image: SpatialImage) -> np.ndarray:
    """Read labels as int32. What is whole in single precision, which nnU-Net's readers have, is taken as that.

    Raises:
        ValueError: where voxels are no whole numbers, naming the file and some of the values.
    """
    array = voxels(image)
    single = array.astype(np.float32) if array.dtype.kind == "f" else array
    with np.errstate(invalid="ignore"):  # NaN and what is too large become another number, by which they are found
        labels = single.astype(np.int32)
    wrong = labels != single
    if wrong.any():
        shown = listed(np.unique(array[wrong]).tolist(), 5)
        raise ValueError(f"{image.get_filename()} has values that are no whole numbers, so they are no labels: {shown}")
    return labels


def reoriented(image: SpatialImage, orientation: str) -> SpatialImage:
    """Permute and flip the axes of an image to the orientation (of oblique images, to the nearest one).

    No voxel changes its value or its place in space.
    """
    return image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(orientation))))


def conformed(image: SpatialImage, order: int) -> SpatialImage:
    """Bring an image to LIA at 1 mm: it is resampled about its centre where it has other voxels, else only turned.

    Voxels count as 1 mm within a thousandth, because resampling is not free: over the 256 voxels of a head that is a
    quarter of a voxel, while every interpolated image is blurred.

    Args:
        order: of the spline that interpolates; 0 for labels, which takes the nearest voxel's.
    """
    image = reoriented(image, ORIENTATION)
    zooms = np.array(image.header.get_zooms())
    if np.allclose(zooms, 1, atol=1e-3):
        return image
    shape = tuple(int(n) for n in np.ceil(np.array(image.shape) * zooms - 1e-3))
    return conform(image, shape, (1.0, 1.0, 1.0), order=order, orientation=ORIENTATION)


def grid_difference(
    shape: tuple[int, ...], affine: np.ndarray, other_shape: tuple[int, ...], other_affine: np.ndarray
) -> str | None:
    """Say how two voxel grids differ; None where each corner lies within 1 % of the smallest voxel of the other's.

    Corners, because what is compared here is put together voxel by voxel, or cut with one box: what counts is how far a
    voxel lies from its partner at the worst place, however the files describe it (a turn too small to see in a
    direction moves a far corner). One per cent is more than what 32-bit numbers of a header leave.
    """
    if shape != other_shape:
        return f"shape {times(shape)} and {times(other_shape)}"
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1)
    offset = nibabel.affines.apply_affine(affine - other_affine, corners.T)
    distance = np.linalg.norm(offset, axis=1).max()
    if distance > 0.01 * np.linalg.norm(affine[:3, :3], axis=0).min():
        return f"places up to {distance:.3g} mm apart"
    return None


def write_volume(image: nibabel.Nifti1Image, file: Path) -> None:
    """Write ``.nii.gz``, under its name only when complete.

    Raises:
        OSError: where it cannot be written, naming the file.
    """
    with written_whole(file) as temporary, temporary.open("wb") as raw:
        # without a name and a time of its own, so that the same voxels are the same bytes
        with gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as stream:
            image.to_stream(stream)


def nifti(array: np.ndarray, affine: np.ndarray, **options) -> nibabel.Nifti1Image:
    """Make an image with its place in both of NIfTI's forms, because some programs read one, some the other."""
    image = nibabel.Nifti1Image(array, affine, dtype=array.dtype, **options)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm")
    return image


def on_grid_of(image: SpatialImage, array: np.ndarray) -> nibabel.Nifti1Image:
    """Make an image on the grid of another, of a NIfTI image with its header: both forms of its place, and its unit."""
    if not isinstance(image, nibabel.Nifti1Image):
        return nifti(array, image.affine)
    return type(image)(array, image.affine, image.header, dtype=array.dtype)
