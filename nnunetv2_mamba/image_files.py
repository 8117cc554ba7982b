"""What holds for every image file, whoever reads it: all of it is there, and a label map has whole numbers.

Readers differ in what they do with a file that was cut short. ITK takes NIfTI, GIPL and compressed MetaImage files with
zeros for what is missing, Pillow a PNG, tifffile a TIFF in LZW. The length of an uncompressed NRRD file ITK checks.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK
from nibabel import AnalyzeHeader, Nifti1Header, Nifti1Pair, Nifti2Header
from nibabel.filename_parser import types_filenames
from nibabel.freesurfer.mghformat import MGHHeader
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from tifffile import TiffFile, TiffFileError

from .text import last_line, listed

_CHUNK = 1 << 16  # of compressed bytes at a time: they may grow a thousandfold
_LINE = 1 << 16  # of a text header
_GIPL_HEADER = 256
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# What our checks and the libraries raise of a header that cannot be true; tifffile calculates with what it says.
_DAMAGE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError, RuntimeError, TypeError,
    ValueError, struct.error, zlib.error, HeaderDataError, TiffFileError, WrapStructError,
)  # fmt: skip


class _UnusableError(ValueError):
    """A file that is whole, with a header that no image of ours can have."""


def check_complete(file: Path) -> None:
    """Check that all voxels of an image file are there, and that its header can be true.

    Of NIfTI (also as a pair), Analyze, MGH, MetaImage, NRRD, GIPL, PNG, BMP and TIFF files, compressed or not; of
    others only that they are regular files. Nothing of the size that a header claims is allocated.

    Raises:
        ValueError: naming the file: it is missing or no regular file, damaged, has complex voxels, or a voxel size of
            zero or NaN.
    """
    _check_regular(file)
    name = file.name.lower()
    check = next((check for endings, check in _CHECKS.items() if name.endswith(endings)), None)
    if check is None:
        return
    try:
        check(file)
    except _UnusableError as error:
        raise ValueError(f"{file} cannot be used: {error}") from error
    except _DAMAGE as error:
        raise ValueError(f"{file} is damaged: {last_line(error)}") from error


def whole_numbers(array: np.ndarray, file: Path) -> np.ndarray:
    """Take the values of a label map as integers.

    Args:
        array: of any shape and type, such as a whole image or the different values in it.
        file: for the message.

    Raises:
        ValueError: for values that are no whole numbers, which nnU-Net would cut to the next one towards zero.
    """
    if np.issubdtype(array.dtype, np.integer) or array.dtype == bool:
        return array
    if np.iscomplexobj(array):
        raise ValueError(f"{file} has complex numbers, no labels")
    wrong = np.unique(array[~np.isfinite(array) | (array != np.rint(array))])
    if wrong.size:
        raise ValueError(
            f"{file} has values that are no whole numbers: {listed(wrong)}; labels must be. Round them where that is "
            "what they mean, and write the file again as integers"
        )
    largest = np.abs(array).max(initial=0)
    if largest > np.iinfo(np.int64).max // 2:
        raise ValueError(f"{file} has values that are too large for labels: {largest!s}")
    return array.astype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)


def _check_regular(file: Path) -> None:
    """Refuse what is no regular file: a pipe would be waited for, a device read without end."""
    try:
        mode = file.stat().st_mode
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise ValueError(f"{file} cannot be read: it is no regular file, but a folder, a pipe or a device")


def _opened(file: Path) -> BinaryIO:
    """Open the content; what is called ``.gz`` and is not compressed, ITK reads as well."""
    with file.open("rb") as stream:
        compressed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if compressed and file.suffix.lower() in (".gz", ".mgz") else file.open("rb")


def _check_size(stream: BinaryIO, expected: int) -> None:
    size = stream.seek(0, os.SEEK_END)  # reads a compressed file to its end, where the checksum is
    if size < expected:
        raise EOFError(f"it has {size} bytes of {expected}")


def _check_nifti(file: Path) -> None:
    with _opened(file) as stream:
        header = _nifti_header(stream)
        offset = float(header["vox_offset"])
        if not header.single_vox_offset <= offset < np.inf:
            raise HeaderDataError(f"its voxels begin at byte {offset:g}, within the header")
        _check_size(stream, int(offset) + _bytes_of_voxels(header))


def read_nifti_header(file: Path) -> Nifti1Header | Nifti2Header:
    """Read the header of a NIfTI file as it stands there, in the file's byte order; nibabel would correct it.

    Raises:
        HeaderDataError: for another file.
    """
    with _opened(file) as stream:
        return _nifti_header(stream)


def _nifti_header(stream: BinaryIO) -> Nifti1Header | Nifti2Header:
    start = stream.read(Nifti2Header.sizeof_hdr)
    kind = next((kind for kind in (Nifti1Header, Nifti2Header) if kind.may_contain_header(start)), None)
    if kind is None:
        raise HeaderDataError("it has no header of NIfTI")
    return kind(start[: kind.sizeof_hdr], check=False)


def read_nifti_voxels(file: Path) -> np.ndarray:
    """Read the voxels as they stand in a whole NIfTI file, without slope and intercept, as an array of one axis."""
    with _opened(file) as stream:
        header = _nifti_header(stream)
        stream.seek(int(header["vox_offset"]))
        return np.frombuffer(stream.read(_bytes_of_voxels(header)), header.get_data_dtype())


def _check_pair(file: Path) -> None:
    """Check NIfTI or Analyze in two files, of which either may be named."""
    names = types_filenames(str(file), (("header", ".hdr"), ("voxels", ".img")), trailing_suffixes=(".gz",))
    header_file, voxels = Path(names["header"]), Path(names["voxels"])
    if not voxels.exists() and voxels.suffix != ".gz":
        voxels = Path(f"{voxels}.gz")
    for part in (header_file, voxels):
        _check_regular(part)
    with _opened(header_file) as stream:
        start = stream.read(AnalyzeHeader.sizeof_hdr)
    kind = Nifti1Pair.header_class if Nifti1Header.may_contain_header(start) else AnalyzeHeader
    if not kind.may_contain_header(start):
        raise HeaderDataError("it has no header of NIfTI or Analyze")
    header = kind(start, check=False)
    offset = float(header["vox_offset"])
    if not 0 <= offset < np.inf:
        raise HeaderDataError(f"its voxels begin at byte {offset:g}")
    with _opened(voxels) as stream:
        _check_size(stream, int(offset) + _bytes_of_voxels(header))


def _bytes_of_voxels(header: AnalyzeHeader) -> int:
    """Count the bytes of the voxels, of a header that can be true."""
    n_axes = int(header["dim"][0])
    shape = header["dim"][1 : n_axes + 1].tolist()
    if not 1 <= n_axes <= 7 or min(shape) < 1:
        raise HeaderDataError(f"its header says {n_axes} axes of {shape} voxels")
    voxel = _voxel_type(header)
    if voxel.kind == "c":
        raise _UnusableError("its voxels are complex numbers; write it again with real ones")
    for axis, (length, size) in enumerate(zip(shape[:3], header["pixdim"][1:4].tolist(), strict=False), 1):
        # Of an axis of one voxel, programs leave the size out.
        if not math.isfinite(size) or (size == 0 and length > 1):
            raise _UnusableError(f"its voxel size along axis {axis} (pixdim[{axis}]) is {size:g}; correct its header")
    return math.prod(shape) * voxel.itemsize


def _voxel_type(header: AnalyzeHeader | MGHHeader) -> np.dtype:
    try:
        voxel = header.get_data_dtype()
    except KeyError as error:
        raise HeaderDataError(f"its header says a type of voxels that is unknown: {error}") from error
    if not voxel.itemsize:
        raise HeaderDataError("its header says no type of voxels")
    return voxel


def _check_mgh(file: Path) -> None:
    with _opened(file) as stream:
        header = MGHHeader(stream.read(MGHHeader.template_dtype.itemsize), check=False)
        if header["version"] != 1 or min(header["dims"].tolist()) < 1:
            raise HeaderDataError("it has no header of MGH")
        n_voxels = math.prod(header["dims"].tolist())
        _check_size(stream, header.get_data_offset() + n_voxels * _voxel_type(header).itemsize)


def _check_meta(file: Path) -> None:
    """Check a MetaImage, with the voxels in the file or in one beside it."""
    fields = {}
    with file.open("rb") as stream:
        while "ElementDataFile" not in fields and (line := stream.readline(_LINE)):
            key, *value = re.split("[=:]", line.decode("latin-1"), maxsplit=1)
            fields[key.strip()] = "".join(value).strip()
        where = fields.get("ElementDataFile", "")
        if where.upper() == "LOCAL":
            voxels, offset = file, stream.tell()
        elif file.suffix.lower() == ".mha":
            raise EOFError("its voxels are in another file")
        elif where.split()[:1] == ["LIST"] or "%" in where:
            return  # many files, of which ITK names one that is missing or too short
        else:
            voxels, offset = file.parent / where, 0
            _check_regular(voxels)
    expected = _bytes_by_itk(file)
    with voxels.open("rb") as stream:
        stream.seek(offset)
        if not fields.get("CompressedData", "").startswith(("T", "t", "1")):
            if fields.get("BinaryData", "True").startswith(("T", "t", "1")):
                _check_size(stream, offset + expected)
            return
        length = int(float(fields.get("CompressedDataSize") or 0))
        if length <= 0:  # then ITK takes the whole file, from its first byte on
            if voxels == file:
                raise EOFError("its header has no CompressedDataSize")
            length = voxels.stat().st_size
        size = _decompressed_size(_pieces(stream, length))
    if size != expected:
        raise EOFError(f"it has {size} bytes of {expected}")


def _check_nrrd(file: Path) -> None:
    """Check that what is compressed has its end, with its checksum; for the rest of it ITK looks."""
    fields = {}
    with file.open("rb") as stream:
        if not stream.read(4).startswith(b"NRRD"):
            raise EOFError("it has no header of NRRD")
        while (line := stream.readline(_LINE)).strip():
            key, _, value = line.decode("latin-1").partition(":")
            fields[key.strip().lower().replace(" ", "")] = value.strip()
        if not line and "datafile" not in fields:  # an empty line ends the header, without it there are no voxels
            raise EOFError("its header has no end")
        where, offset = fields.get("datafile", ""), stream.tell()
    if where.startswith("LIST") or "%" in where:
        return  # many files
    voxels = file.parent / where if where else file
    _check_regular(voxels)
    if fields.get("encoding", "").lower() in ("gzip", "gz"):
        with voxels.open("rb") as stream:
            stream.seek(0 if where else offset)
            _decompressed_size(iter(lambda: stream.read(_CHUNK), b""))


def _pieces(stream: BinaryIO, length: int) -> Iterator[bytes]:
    """Read the next bytes, so many or all that there are, piece by piece."""
    while length and (piece := stream.read(min(length, _CHUNK))):
        length -= len(piece)
        yield piece


def _decompressed_size(chunks: Iterator[bytes]) -> int:
    """Count the bytes in a stream of zlib or gzip, which must have its end."""
    decompressor, size = zlib.decompressobj(wbits=47), 0
    for chunk in chunks:
        size += len(decompressor.decompress(chunk))
        if decompressor.eof:
            return size
    raise EOFError(f"it has {size} bytes of voxels, and its compressed stream has no end")


def _check_gipl(file: Path) -> None:
    with _opened(file) as stream:
        _check_size(stream, _GIPL_HEADER + _bytes_by_itk(file))


def _bytes_by_itk(file: Path) -> int:
    """Count the bytes of the voxels, of a header that ITK can read."""
    header = read_header(file)
    component = SimpleITK.Image(1, 1, 1, header.GetPixelID()).GetSizeOfPixelComponent()
    return math.prod(header.GetSize()) * header.GetNumberOfComponents() * component


def read_header(file: Path) -> SimpleITK.ImageFileReader:
    """Read size, spacing, origin and direction as ITK does, without the voxels.

    Raises:
        RuntimeError: ITK's, with the reason in its last line.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    return reader


def _check_png(file: Path) -> None:
    with file.open("rb") as stream:
        if stream.read(8) != b"\x89PNG\r\n\x1a\n" or stream.read(8)[4:] != b"IHDR":
            raise EOFError("it has no header of PNG")
        width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", stream.read(13))
        if colour not in _PNG_CHANNELS:
            raise HeaderDataError(f"its header says a type of colours that is unknown: {colour}")
        stream.read(4)
        size = _decompressed_size(_png_data(stream))
        if b"IEND\xaeB`\x82" not in stream.read():
            raise EOFError("its last chunk is missing")
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for left, top, right, down in passes:
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + (columns * depth * _PNG_CHANNELS[colour] + 7) // 8)
    if size < expected:
        raise EOFError(f"it has {size} bytes of {expected}")


def _png_data(stream: BinaryIO) -> Iterator[bytes]:
    """Read what the chunks of pixels hold, piece by piece."""
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = stream.tell() + length
        if kind == b"IDAT":
            yield from _pieces(stream, length)
        stream.seek(end + 4)


def _check_bmp(file: Path) -> None:
    with file.open("rb") as stream:
        mark, size = struct.unpack("<2sI", stream.read(6))
        if mark != b"BM":
            raise EOFError("it has no header of BMP")
        _check_size(stream, size)


def _check_tiff(file: Path) -> None:
    size = file.stat().st_size
    with TiffFile(file) as tiff:
        ends = []
        for page in tiff.pages:
            ends += [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
            ends.append(page.offset + (16 + 20 * len(page.tags) if tiff.is_bigtiff else 6 + 12 * len(page.tags)))
        ends += [one.dataoffset + one.nbytes for one in tiff.series if one.dataoffset is not None]
    if not ends:
        raise EOFError("it has no pages")
    if max(ends) > size:
        raise EOFError(f"it has {size} bytes of {max(ends)}")


_CHECKS: dict[tuple[str, ...], Callable[[Path], None]] = {
    (".nii", ".nii.gz"): _check_nifti,
    (".hdr", ".img", ".hdr.gz", ".img.gz"): _check_pair,
    (".mgh", ".mgz"): _check_mgh,
    (".mha", ".mhd"): _check_meta,
    (".nrrd", ".nhdr"): _check_nrrd,
    (".gipl", ".gipl.gz"): _check_gipl,
    (".png",): _check_png,
    (".bmp",): _check_bmp,
    (".tif", ".tiff"): _check_tiff,
}
