"""What holds for every image file, whoever reads it."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import SimpleITK
from nibabel import Nifti1Header, Nifti2Header
from nibabel.spatialimages import HeaderDataError

_CHUNK = 1 << 22


def check_complete(file: Path) -> None:
    """Check that all voxels of a NIfTI or ``.mha`` file are there: ITK takes others, with zeros for what is missing.

    Raises:
        ValueError: for a file that is damaged.
    """
    try:
        if file.name.endswith((".nii", ".nii.gz")):
            _check_nifti(file)
        elif file.suffix == ".mha":
            _check_mha(file)
    except (EOFError, OSError, zlib.error, HeaderDataError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _check_nifti(file: Path) -> None:
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        start = stream.read(Nifti2Header.sizeof_hdr)
        kind = next((kind for kind in (Nifti1Header, Nifti2Header) if kind.may_contain_header(start)), None)
        if kind is None:
            raise HeaderDataError("it has no header of NIfTI")
        header = kind(start[: kind.sizeof_hdr], check=False)  # in the file's byte order
        expected = header.get_data_offset() + math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        size = len(start)
        while chunk := stream.read(_CHUNK):  # to the end, where gzip has its checksum
            size += len(chunk)
    if size < expected:
        raise EOFError(f"it has {size} bytes of {expected}")


def _check_mha(file: Path) -> None:
    """Check what is compressed; ITK itself finds others too short."""
    header = {}
    with file.open("rb") as stream:
        while "ElementDataFile" not in header and (line := stream.readline(_CHUNK)):
            key, _, value = line.decode("latin-1").replace(":", "=", 1).partition("=")
            header[key.strip()] = value.strip()
        if header.get("ElementDataFile") != "LOCAL":
            raise EOFError("its voxels are in another file")
        if not header.get("CompressedData", "").startswith(("T", "t", "1")):
            return
        decompressor, size = zlib.decompressobj(wbits=47), 0  # zlib's or gzip's header, as ITK
        while not decompressor.eof and (chunk := stream.read(_CHUNK >> 6)):  # it may grow a thousandfold
            size += len(decompressor.decompress(chunk))
    image = SimpleITK.ImageFileReader()
    image.SetFileName(str(file))
    image.ReadImageInformation()
    expected = math.prod(image.GetSize()) * SimpleITK.Image(1, 1, 1, image.GetPixelID()).GetSizeOfPixelComponent()
    if not decompressor.eof or size != expected:
        raise EOFError(f"it has {size} bytes of {expected}")
