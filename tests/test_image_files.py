"""Image files that are cut short or have a header that cannot be true, and label maps without whole numbers."""

import gzip
import itertools
import os
import re
import struct
import zlib

import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from nibabel.nifti1 import header_dtype
from PIL import Image

from nnunetv2_mamba.image_files import check_complete, whole_numbers

VOLUME = np.random.default_rng(0).integers(0, 5, (6, 14, 12)).astype(np.uint8)
PLANE = np.random.default_rng(1).integers(0, 5, (40, 50)).astype(np.uint8)
# Files that ITK writes, and where their voxels are
BY_ITK = {
    "a.nii": "a.nii",
    "a.nii.gz": "a.nii.gz",
    "raw.mha": "raw.mha",
    "compressed.mha": "compressed.mha",
    "raw.mhd": "raw.raw",
    "compressed.mhd": "compressed.zraw",
    "compressed.nrrd": "compressed.nrrd",
    "compressed.nhdr": "compressed.raw.gz",
    "a.gipl": "a.gipl",
    "a.gipl.gz": "a.gipl.gz",
    "a.hdr": "a.img",
    "a.img": "a.img",
}
BY_NIBABEL = {
    "two.nii": nibabel.Nifti2Image,
    "pair.img": nibabel.Nifti1Pair,
    "analyze.img": nibabel.AnalyzeImage,
    "a.mgh": nibabel.MGHImage,
    "a.mgz": nibabel.MGHImage,
}
TIFFS = {"raw": None, "lzw": "lzw", "deflated": "zlib"}
PLANES = ("a.png", "a.bmp", "bits.png", "colours.png")


def write(folder, name):
    """A whole file; returns it and the one with its voxels."""
    file = folder / name
    if name in BY_ITK:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(VOLUME), str(file), name.startswith("compressed"))
        return file, folder / BY_ITK[name]
    if name in BY_NIBABEL:
        nibabel.save(BY_NIBABEL[name](VOLUME.astype(np.int16), np.eye(4)), file)
    elif name.endswith(".tif"):
        tifffile.imwrite(
            file, VOLUME if "volume" in name else PLANE, compression=TIFFS[name.split(".")[0].split("_")[0]]
        )
    else:
        pixels = {"bits.png": PLANE > 2, "colours.png": np.stack([PLANE] * 3, axis=-1)}.get(name, PLANE)
        Image.fromarray(pixels).save(file)
    return file, file


FILES = [*BY_ITK, *BY_NIBABEL, *PLANES, *(f"{kind}{what}.tif" for kind in TIFFS for what in ("", "_volume"))]


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short(name, tmp_path):
    """Wherever it is cut, also where a library reads the voxels that are left."""
    file, voxels = write(tmp_path, name)
    check_complete(file)
    content = voxels.read_bytes()
    for size in (0, 1, *(int(share * len(content)) for share in (0.1, 0.4, 0.7, 0.9, 0.98))):
        voxels.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is damaged") as error:
            check_complete(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("a.mgh", "raw_volume.tif")])
def test_the_last_byte_is_missing(name, tmp_path):
    """Of what has a checksum or voxels there; MGH ends with what a reader may leave out, TIFF with a page's address."""
    file, voxels = write(tmp_path, name)
    voxels.write_bytes(voxels.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        check_complete(file)


@pytest.mark.parametrize("name", ["a.nii", "a.gipl", "a.mgh"])
def test_a_whole_gzip_of_half_a_file(name, tmp_path):
    file, _ = write(tmp_path, name)
    content = file.read_bytes()
    ending = ".mgz" if name == "a.mgh" else f"{name[1:]}.gz"
    file = tmp_path / f"half{ending}"
    file.write_bytes(gzip.compress(content))
    check_complete(file)
    file.write_bytes(gzip.compress(content[: len(content) // 2]))
    with pytest.raises(ValueError, match=f"half{ending} is damaged: it has {len(content) // 2} bytes of"):
        check_complete(file)


@pytest.mark.parametrize("name", ["compressed.mha", "compressed.mhd"])
def test_a_whole_stream_of_half_the_voxels(name, tmp_path):
    file, voxels = write(tmp_path, name)
    content = voxels.read_bytes()
    start = content.index(b"ElementDataFile = LOCAL\n") + 24 if file == voxels else 0
    stream = zlib.compress(VOLUME.tobytes()[: VOLUME.size // 2])
    voxels.write_bytes(content[:start] + stream)
    with pytest.raises(ValueError, match=f"it has {VOLUME.size // 2} bytes of {VOLUME.size}"):
        check_complete(file)


@pytest.mark.parametrize(("said", "message"), [("", "no CompressedDataSize"), ("CompressedDataSize = 100\n", "no end")])
def test_a_stream_of_which_itk_reads_another_part(said, message, tmp_path):
    """ITK would take what is in the memory for the rest of the voxels."""
    file, _ = write(tmp_path, "compressed.mha")
    file.write_bytes(re.sub(b"CompressedDataSize = .*\n", said.encode(), file.read_bytes()))
    with pytest.raises(ValueError, match=f"compressed.mha is damaged: .*{message}"):
        check_complete(file)


@pytest.mark.parametrize("interlaced", [0, 1])
def test_a_png_of_whole_chunks_with_fewer_rows(interlaced, tmp_path):
    file = tmp_path / "a.png"

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    # Adam7's seven small images of 5 x 3 pixels: columns and rows of each
    passes = [(1, 1), (1, 1), (2, 0), (1, 1), (3, 1), (2, 2), (5, 1)] if interlaced else [(5, 3)]
    rows = b"".join(bytes(1 + width) for width, height in passes for _ in range(height) if width)
    for missing, damaged in ((0, False), (1, True)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, interlaced))
        pixels = chunk(b"IDAT", zlib.compress(rows[: len(rows) - missing]))
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))
        if damaged:
            with pytest.raises(ValueError, match=f"it has {len(rows) - 1} bytes of {len(rows)}"):
                check_complete(file)
        else:
            check_complete(file)
            assert Image.open(file).size == (5, 3) and not np.asarray(Image.open(file)).any()


def test_what_is_called_compressed_and_is_not(tmp_path):
    """ITK reads it, so nnU-Net does."""
    file, _ = write(tmp_path, "a.nii")
    file = file.rename(tmp_path / "plain.nii.gz")
    check_complete(file)
    assert (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) == VOLUME).all()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        check_complete(file)


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 273, 277, 278, 279])
def test_a_tiff_with_a_number_that_cannot_be_true(tag, tmp_path):
    """The library may divide by it, or wait for one number where there are two: all that is damaged is named."""
    file, _ = write(tmp_path, "raw.tif")
    whole = file.read_bytes()
    (start,) = struct.unpack_from("<I", whole, 4)
    entries = range(start + 2, start + 2 + 12 * struct.unpack_from("<H", whole, start)[0], 12)
    (entry,) = [entry for entry in entries if struct.unpack_from("<H", whole, entry)[0] == tag]
    refused = 0
    for count, value in itertools.product((0, 1, 2), (0, 7, 2**32 - 1)):
        content = bytearray(whole)
        struct.pack_into("<HII", content, entry + 2, 4, count, value)
        file.write_bytes(content)
        try:
            check_complete(file)
        except ValueError as error:
            assert str(error).startswith(f"{file} is damaged: ")
            refused += 1
    assert refused or tag in (259, 262)  # how voxels are compressed and coloured may be left out


def test_a_png_of_unknown_colours(tmp_path):
    file, _ = write(tmp_path, "a.png")
    content = bytearray(file.read_bytes())
    content[25] = 5
    file.write_bytes(content)
    with pytest.raises(ValueError, match="a.png is damaged: its header says a type of colours that is unknown: 5"):
        check_complete(file)


@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_voxels_in_a_file_with_a_colon_in_its_name(tmp_path):
    """ITK takes the first of = and : for the one between key and value."""
    file, voxels = write(tmp_path, "raw.mhd")
    voxels.rename(tmp_path / "12:30.raw")
    file.write_text(file.read_text().replace("= raw.raw", "= 12:30.raw"))
    assert (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(file))) == VOLUME).all()
    check_complete(file)


def nifti(folder, **fields):
    """A NIfTI file with some fields of its header changed."""
    content = nibabel.Nifti1Image(VOLUME, np.eye(4)).to_bytes()
    header = np.frombuffer(content[:348], header_dtype).copy()
    for name, value in fields.items():
        header[name] = value
    file = folder / "odd.nii"
    file.write_bytes(header.tobytes() + content[348:])
    return file


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "is damaged: it has 1360 bytes of 35181150962015"),
        ({"dim": [3, 6, -14, 12, 1, 1, 1, 1]}, "is damaged: its header says 3 axes"),
        ({"dim": [3, 6, 0, 12, 1, 1, 1, 1]}, "is damaged: its header says 3 axes"),
        ({"dim": [0, 1, 1, 1, 1, 1, 1, 1]}, "is damaged: its header says 0 axes"),
        ({"vox_offset": 1e30}, "is damaged: it has 1360 bytes of 1000000015"),
        ({"vox_offset": -100}, "is damaged: its voxels begin at byte -100, within the header"),
        ({"vox_offset": 0}, "is damaged: its voxels begin at byte 0, within the header"),
        ({"vox_offset": np.nan}, "is damaged: its voxels begin at byte nan"),
        ({"vox_offset": np.inf}, "is damaged: its voxels begin at byte inf"),
        ({"pixdim": [1, 1, 0, 1, 1, 1, 1, 1]}, r"cannot be used: its voxel size along axis 2 \(pixdim\[2\]\) is 0"),
        ({"pixdim": [1, 1, 1, np.nan, 1, 1, 1, 1]}, "cannot be used: its voxel size along axis 3"),
        ({"pixdim": [1, np.inf, 1, 1, 1, 1, 1, 1]}, "cannot be used: its voxel size along axis 1"),
        ({"datatype": 32, "bitpix": 64}, "cannot be used: its voxels are complex"),
        ({"datatype": 7}, "is damaged: its header says a type of voxels that is unknown: 7"),
        ({"datatype": 0}, "is damaged: its header says no type of voxels"),
    ],
)
def test_a_header_that_cannot_be_true(fields, message, tmp_path):
    with pytest.raises(ValueError, match=f"odd.nii {message}"):
        check_complete(nifti(tmp_path, **fields))


def test_headers_of_other_programs(tmp_path):
    """Negative sizes, which stand for a direction; the size of an axis of one voxel; more bytes than voxels."""
    check_complete(nifti(tmp_path, pixdim=[-1, -1, 1, 1, 0, 0, 0, 0]))
    check_complete(nifti(tmp_path, dim=[4, 12, 14, 6, 1, 1, 1, 1], pixdim=[1, 1, 1, 1, 0, 0, 0, 0]))
    check_complete(nifti(tmp_path, dim=[3, 12, 14, 1, 1, 1, 1, 1], pixdim=[1, 1, 1, 0, 0, 0, 0, 0]))
    check_complete(nifti(tmp_path, vox_offset=352.5))


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices of POSIX")
def test_what_is_no_regular_file(tmp_path):
    """A pipe is not waited for, a device not read."""
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "device.nii").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.mha").symlink_to("nothing")
    for name in ("pipe.nii.gz", "device.nii", "folder.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: it is no regular file"):
            check_complete(tmp_path / name)
    for name in ("dangling.mha", "missing.nii.gz"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: No such file"):
            check_complete(tmp_path / name)
    file, voxels = write(tmp_path, "raw.mhd")
    voxels.unlink()
    os.mkfifo(voxels)
    with pytest.raises(ValueError, match="raw.raw cannot be read"):
        check_complete(file)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float64])
def test_whole_numbers_are_taken(dtype, tmp_path):
    given = np.array([[0, 1], [1, 0]]).astype(dtype)
    found = whole_numbers(given, tmp_path)
    assert (found == given).all() and found.shape == (2, 2) and found.dtype.kind in "biu"


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.float32([0, 0.9999999]), "0.9999999;"),
        (np.float32([1.0000001, 1]), "1.0000001;"),
        (np.array([254 * (1 / 255) * 255 / 254]) * (1 + 2e-16), "1.0000000000000002;"),
        (np.array([0.5, np.nan, -np.inf]), "-inf, 0.5, nan;"),
        (np.arange(20) + 0.25, "9.25, ...;"),
    ],
)
def test_numbers_that_are_not_whole_are_shown_as_they_are(values, shown, tmp_path):
    with pytest.raises(ValueError) as error:
        whole_numbers(values, tmp_path / "a.nii.gz")
    assert f"{tmp_path / 'a.nii.gz'} has values that are no whole numbers: " in str(error.value)
    assert shown in str(error.value)


@pytest.mark.parametrize(("values", "message"), [([1e30], "too large for labels: 1e.30"), ([1 + 1j], "complex")])
def test_numbers_that_are_no_labels(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        whole_numbers(np.array(values), tmp_path)
