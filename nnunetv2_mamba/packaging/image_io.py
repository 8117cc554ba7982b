"""Images in and out: what arrives is checked, what leaves is complete and lies exactly where the input lies."""

from __future__ import annotations

import gzip
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from nibabel.spatialimages import HeaderDataError

from ..image_files import check_complete, read_header, read_nifti_header, read_nifti_voxels
from ..text import last_line, times

# How far origins and spacings (mm) and direction cosines may differ: NIfTI's 32-bit numbers leave that of equal ones.
_TOLERANCE = 1e-3
_NIFTI = (".nii", ".nii.gz")
_PLACE = (  # of a NIfTI header, besides pixdim
    "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z", "xyzt_units",
)  # fmt: skip


@dataclass(frozen=True)
class FileGrid:
    """The voxel grid of a file, as ITK gives it of the image: ``x, y, z``, and mm."""

    file: Path
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of_header(cls, file: Path, header: SimpleITK.ImageFileReader) -> FileGrid:
        """Take it from a file's header; ITK turns an axis around whose spacing is negative there."""
        spacing = np.array(header.GetSpacing())
        turned = np.where(spacing < 0, -1.0, 1.0)
        direction = (np.reshape(header.GetDirection(), (len(spacing), -1)) * turned).ravel()
        return cls(
            file,
            size=header.GetSize(),
            spacing=tuple(np.abs(spacing).tolist()),
            origin=header.GetOrigin(),
            direction=tuple(direction.tolist()),
        )


def read_geometry(files: Sequence[Path]) -> FileGrid:
    """The grid of the channels of a case, from their headers; that of the first file.

    Raises:
        FileNotFoundError: naming a file that is missing.
        ValueError: naming a file that cannot be read, is no 3D image of one channel, has no voxels, or lies elsewhere
            than the first.
    """
    first, *others = [FileGrid.of_header(file, _checked_header(file)) for file in files]
    for other in others:
        difference = _difference(first, other)
        if difference:
            raise ValueError(f"{other.file} and {first.file} are on different voxel grids: {difference}")
    return first


def as_nifti(file: Path, copy: Path) -> Path:
    """Copy an image to the NIfTI file ``copy``, for readers that know no other format.

    Raises:
        ValueError: for a file that cannot be read.
        OSError: where the copy cannot be written.
    """
    try:
        image = SimpleITK.ReadImage(file)
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be read: {last_line(error)}") from error
    write_image(image, copy, f"the copy of {file} in {copy.parent}")
    return copy


def count_non_finite(file: Path) -> int:
    """How many voxels of an image that can be read are NaN or infinite, in nnU-Net's 32 bits; ITK makes 0 of those of
    NIfTI."""
    if file.name.endswith(_NIFTI):
        if read_nifti_header(file).get_data_dtype().kind != "f":
            return 0
        voxels = read_nifti_voxels(file)
    else:
        image = SimpleITK.ReadImage(file)
        voxels = SimpleITK.GetArrayViewFromImage(image)
    if voxels.dtype.kind != "f":
        return 0
    with np.errstate(over="ignore"):
        return int(voxels.size - np.count_nonzero(np.isfinite(voxels.astype(np.float32, copy=False))))


def check_writable(folder: Path) -> None:
    """Make the folder of a result and write a file there, to know before hours of computing that it can be done.

    Raises:
        OSError: where it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".") as file:
            file.write(b"0")
    except OSError as error:
        raise OSError(f"nothing can be written to {folder}: {error.strerror or error}") from error


def write_image(image: SimpleITK.Image, file: Path, name: object = None) -> None:
    """Write an image, compressed where the format can be.

    Args:
        name: what messages call the file; itself where None.

    Raises:
        OSError: where it cannot be written, or not all of it.
    """
    name = file if name is None else name
    try:
        SimpleITK.WriteImage(image, file, useCompression=True)
        check_complete(file)  # ITK does not say that a full disk took a part of a NIfTI file only
    except RuntimeError as error:
        reason = last_line(error).replace(str(file), str(name))
        raise OSError(f"{name} cannot be written: {reason}") from error
    except ValueError as error:
        reason = str(error).replace(str(file), "the file")
        raise OSError(f"{name} was not written whole; is the disk full? ({reason})") from error


def write_scaled_nifti(image: SimpleITK.Image, slope: float, file: Path, name: object = None) -> None:
    """Write an image of whole numbers as ``.nii.gz``, which readers multiply by ``slope``: SimpleITK cannot say so.

    Args and Raises:
        As of ``write_image``.
    """
    plain = file.with_name(file.name.removesuffix(".gz"))
    try:
        write_image(image, plain, name)
        with plain.open("rb") as source, gzip.open(file, "wb", compresslevel=6) as target:
            header = nibabel.Nifti1Header.from_fileobj(source)
            header.set_slope_inter(slope, 0)
            header.write_to(target)
            source.seek(header.get_data_offset())
            shutil.copyfileobj(source, target, 1 << 20)
    finally:
        plain.unlink(missing_ok=True)


def lie_as(file: Path, source: Path) -> None:
    """Say in the header of ``file``, as ITK has written it, what that of ``source`` says of the place of the same grid.

    ITK writes one place twice, as NIfTI's qform and sform. Where ``source`` has two places, none, or a negative voxel
    size, nibabel and others see it elsewhere than ITK, and would so see the two apart. Nothing is done for files that
    are no NIfTI.
    """
    if not (file.name.endswith(_NIFTI) and source.name.endswith(_NIFTI)):
        return
    header, place = read_nifti_header(file), read_nifti_header(source)
    with suppress(HeaderDataError, ValueError):  # of what nibabel does not take: it is copied
        if np.allclose(header.get_best_affine(), place.get_best_affine(), rtol=0, atol=_TOLERANCE):
            return
    for field in _PLACE:
        header[field] = place[field]
    header["pixdim"][:4] = place["pixdim"][:4]
    opened = partial(gzip.open, compresslevel=6) if file.suffix == ".gz" else open
    with opened(file, "rb") as stream:
        content = memoryview(stream.read())
    with opened(file, "wb") as stream:
        stream.write(header.binaryblock)
        stream.write(content[len(header.binaryblock) :])


def _checked_header(file: Path) -> SimpleITK.ImageFileReader:
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    try:
        header = read_header(file)
    except RuntimeError as error:
        raise ValueError(f"{file} cannot be read: {last_line(error)}") from error
    if header.GetDimension() != 3 or header.GetNumberOfComponents() != 1:
        planes = "; nnUNetv2_predict takes images of two axes" if header.GetDimension() == 2 else ""
        raise ValueError(
            f"{file} must be a 3D image of one channel; it has {header.GetDimension()} dimensions and "
            f"{header.GetNumberOfComponents()} channels{planes}"
        )
    if 0 in header.GetSize():
        raise ValueError(f"{file} has no voxels: {times(header.GetSize())}")
    return header


def _difference(one: FileGrid, other: FileGrid) -> str:
    if one.size != other.size:
        return f"{times(other.size)} and {times(one.size)} voxels"
    for what in ("spacing", "origin", "direction"):
        values = [getattr(geometry, what) for geometry in (other, one)]
        if not np.allclose(*values, rtol=0, atol=_TOLERANCE):
            return f"{what} {times(values[0])} and {times(values[1])}"
    return ""
