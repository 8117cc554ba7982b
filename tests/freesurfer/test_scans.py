"""Images are read as nnU-Net's reader of the model reads them, and what comes back lies on the file's axes."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK
from nibabel.nifti1 import unit_codes
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO, SimpleITKIOWithReorient
from subjects import LIA, save, turned
from two_stage_fakes import READERS, FakePredictor, with_other_sform

from nnunetv2_mamba.freesurfer.scans import read_scan
from nnunetv2_mamba.freesurfer.two_stage import Stage
from nnunetv2_mamba.freesurfer.volumes import open_volume, read_volume, reoriented, voxels

SHAPE = (5, 6, 7)


def values(shape=SHAPE):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def oblique(degrees):
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[np.ix_((0, 2), (0, 2))] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= (0.5, 2, 1.25)
    affine[:3, 3] = (-30, 12, 7)
    return affine


def axes_of(name):
    return oblique(float(name)) if name.lstrip("-").isdigit() else turned(values(), LIA, name)[1]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "LIA", "ASL", "20", "45", "-45", "135"])
@pytest.mark.parametrize("reader", READERS)
def test_a_scan_is_what_the_reader_gives_and_comes_back(reader, axes, tmp_path):
    array, file = values(), tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(array, axes_of(axes))
    nibabel.save(image, file)
    scan = read_scan([file], reader)
    expected, properties = reader().read_images([str(file)])
    np.testing.assert_array_equal(scan.array, expected)
    np.testing.assert_allclose(scan.spacing, properties["spacing"])
    np.testing.assert_array_equal(scan.to_file(scan.array[0]), array)
    np.testing.assert_array_equal(scan.from_file(array), scan.array[0])
    other = scan.turned_to("PSR")
    np.testing.assert_array_equal(other.to_file(other.array[0]), array)
    if not axes.lstrip("-").isdigit():
        turned_image = reoriented(image, "PSR")
        np.testing.assert_array_equal(other.array[0].T, voxels(turned_image))
        np.testing.assert_allclose(other.spacing, turned_image.header.get_zooms()[::-1])
        if reader in (SimpleITKIOWithReorient, NibabelIOWithReorient):
            np.testing.assert_array_equal(scan.array[0].T, voxels(reoriented(image, "RAS")))


def test_spacing_is_turned_with_the_axes(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values(), np.diag([0.5, 2, 1.25, 1])), tmp_path / "a.nii")
    scan = read_scan([tmp_path / "a.nii"], SimpleITKIO)
    assert scan.spacing == (1.25, 2, 0.5)  # z, y, x
    assert scan.turned_to("SLP").spacing == (2, 0.5, 1.25)


@pytest.mark.parametrize(("reader", "sizes"), [(SimpleITKIO, (10, 1.3158, 1.3158)), (NibabelIO, (10, 1.3158, 1.3158))])
def test_where_the_forms_disagree_voxels_are_as_the_reader_has_them(reader, sizes, tmp_path):
    affine = np.diag([-1.3158, -1.3158, 10, 1])
    (tmp_path / "a.nii").write_bytes(with_other_sform(values(), affine, np.diag([-1, -1, 1, 1])))  # as ACDC has it
    scan = read_scan([tmp_path / "a.nii"], reader)
    np.testing.assert_allclose(scan.spacing, sizes)
    np.testing.assert_allclose(scan.turned_to("SPL").spacing, np.array(sizes)[[2, 1, 0]])
    np.testing.assert_array_equal(scan.to_file(scan.array[0]), values())


def test_where_the_forms_disagree_axes_are_as_the_reader_has_them(tmp_path):
    """The qform's axes are RAS, the sform's ASR: ITK takes the sform here, as nibabel does; a scan follows either."""
    sform = np.array([[0, 2, 0, 0], [0.5, 0, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1.0]])
    (tmp_path / "a.nii").write_bytes(with_other_sform(values(), np.diag([0.5, 2, 1.25, 1]), sform))
    direction = np.reshape(SimpleITK.ReadImage(str(tmp_path / "a.nii")).GetDirection(), (3, 3))
    ras = np.diag([-1, -1, 1]) @ direction
    scan = read_scan([tmp_path / "a.nii"], SimpleITKIO).turned_to("RAS")
    first = np.abs(ras[0]).argmax()  # the file's axis that runs to the right
    assert scan.array[0].T.shape[0] == SHAPE[first]


@pytest.mark.parametrize(("unit", "size"), [("micron", 1000.0), ("meter", 0.001), ("mm", 1.0), ("unknown", 1.0)])
def test_units_are_as_the_reader_has_them(unit, size, tmp_path):
    image = nibabel.Nifti1Image(values(), np.diag([size, 2 * size, size, 1]))
    image.header["xyzt_units"] = unit_codes[unit]
    nibabel.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_scan([tmp_path / "a.nii.gz"], SimpleITKIO).spacing, (1, 2, 1), rtol=1e-6)
    np.testing.assert_allclose(read_scan([tmp_path / "a.nii.gz"], NibabelIO).spacing, (size, 2 * size, size), rtol=1e-6)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.mgh"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_as_the_reader_has_it(name, value, tmp_path):
    array = values()
    array[1, 2, 3] = value
    kind = nibabel.MGHImage if "mg" in name else nibabel.Nifti1Image
    nibabel.save(kind(array, np.eye(4)), tmp_path / name)
    array[1, 2, 3] = 0
    np.testing.assert_array_equal(read_scan([tmp_path / name], SimpleITKIO).array[0].T, array)
    with pytest.raises(ValueError, match=rf"{name} has NaN or infinite values, which nnU-Net's NibabelIO hands"):
        read_scan([tmp_path / name], NibabelIO)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    "name", ["more.nii.gz", "more.nii", "slice.nii.gz", "scaled.nii.gz", "scaled_more.nii", "a.mgz"]
)
def test_all_that_is_a_volume_is_taken(reader, name, tmp_path):
    array = (values() * 1000).astype(np.int16)
    if "slice" in name:
        array = array[:, :, :1]
    content = array[..., None] if "more" in name else array
    image = (nibabel.MGHImage if "mg" in name else nibabel.Nifti1Image)(content, axes_of("PIR"))
    if "scaled" in name:
        image.header.set_slope_inter(0.25, 3)
        array = array * 0.25 + 3
    nibabel.save(image, tmp_path / name)
    scan = read_scan([tmp_path / name], reader)
    np.testing.assert_array_equal(scan.to_file(scan.array[0]), array)
    np.testing.assert_allclose(scan.spacing, (1, 1, 1), rtol=1e-6)


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, "cut") for name in ("a.nii", "a.nii.gz", "a.mgh", "a.mgz")),
        *((name, damage) for name in ("a.nii.gz", "a.mgz") for damage in ("cut before compression", "one bit")),
    ],
)
def test_damaged_images_are_refused(reader, name, damage, tmp_path):
    file = tmp_path / name
    nibabel.save((nibabel.MGHImage if "mg" in name else nibabel.Nifti1Image)(values(), np.eye(4)), file)
    content = file.read_bytes()
    if damage == "cut":
        file.write_bytes(content[: len(content) * 6 // 10])
    elif damage == "one bit":
        file.write_bytes(content[:-8] + bytes([content[-8] ^ 1]) + content[-7:])  # of the checksum
    else:
        whole = gzip.decompress(content)
        file.write_bytes(gzip.compress(whole[: len(whole) * 6 // 10]))
    with pytest.raises(ValueError, match=rf"{name} (is damaged|cannot be read as an image): "):
        read_scan([file], reader)


@pytest.mark.parametrize(
    ("array", "affine", "said"),
    [
        (values((5, 6, 7, 2)), np.eye(4), "has the shape (5, 6, 7, 2); a volume of 3 axes is needed"),
        (values((5, 6)), np.eye(4), "has the shape (5, 6); a volume of 3 axes is needed"),
        (values().astype(np.complex64), np.eye(4), "has colours or complex numbers"),
        (np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4), "has colours"),
        (values(), np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "orthonormal"),
    ],
)
def test_what_is_no_volume_is_refused_in_a_line(array, affine, said, tmp_path):
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "a.nii.gz")
    with pytest.raises(ValueError) as error:
        read_scan([tmp_path / "a.nii.gz"], SimpleITKIO)
    assert "a.nii.gz" in str(error.value) and said in str(error.value) and "\n" not in str(error.value)


def test_no_image_and_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        read_scan([tmp_path / "missing.nii.gz"], SimpleITKIO)
    for name in ("text.nii.gz", "text.mgz", "empty.nii"):
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"This is no image.")
        with pytest.raises(ValueError, match=name):
            read_scan([tmp_path / name], SimpleITKIO)


def test_a_place_that_is_none_is_refused(tmp_path):
    for name, column in (("nan.mgh", np.nan), ("flat.mgh", 0)):
        affine = np.eye(4)
        save(values(), affine, tmp_path / name)
        content = bytearray((tmp_path / name).read_bytes())
        content[42:54] = np.array([column] * 3, dtype=">f4").tobytes()  # the first axis' direction
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} has no place in space"):
            read_scan([tmp_path / name], SimpleITKIO)
        with pytest.raises(ValueError, match=rf"{name} is .* mm large"):
            read_volume(tmp_path / name)


def test_channels_are_compared_as_the_reader_has_them(tmp_path):
    affine = np.diag([-1.3158, -1.3158, 10, 1])
    nibabel.save(nibabel.Nifti1Image(values(), affine), tmp_path / "a_0000.nii")
    (tmp_path / "a_0001.nii").write_bytes(with_other_sform(values() + 1, affine, np.diag([-1, -1, 1, 1])))
    files = [tmp_path / f"a_000{channel}.nii" for channel in range(2)]
    scan = read_scan(files, SimpleITKIO)
    np.testing.assert_array_equal(scan.array, np.stack([values().T, values().T + 1]))
    affine[0, 3] = 1
    nibabel.save(nibabel.Nifti1Image(values(), affine), files[1])
    with pytest.raises(ValueError, match=r"a_0000.nii and a_0001.nii are on different voxel grids: places up to 1 mm"):
        read_scan(files, SimpleITKIO)
    nibabel.save(nibabel.Nifti1Image(values()[:, :-1], affine), files[1])
    with pytest.raises(ValueError, match="shape 5 x 6 x 7 and 5 x 5 x 7"):
        read_scan(files, SimpleITKIO)


def test_stages_know_their_reader_and_orientation():
    labels = {"left": 1}
    assert Stage(FakePredictor(labels, orientation="LIA")).orientation == "LIA"
    # the network was trained on what this reader had turned
    assert Stage(FakePredictor(labels, reader=NibabelIOWithReorient, orientation="LIA")).orientation is None
    only_a_name = type("SimpleITKIO", (), {})
    assert Stage(FakePredictor(labels, reader=only_a_name)).reader is SimpleITKIO
    with pytest.raises(ValueError, match="NaturalImage2DIO"):
        Stage(FakePredictor(labels, reader=NaturalImage2DIO))
    for wrong in ("LIX", "LL", "LRA", "LI", 5, ["L", "I", "A"]):
        with pytest.raises(ValueError, match=r"dataset\.json"):
            Stage(FakePredictor(labels, orientation=wrong))


def test_further_axes_are_left_out_and_the_header_stays(tmp_path):
    image = nibabel.Nifti1Image(values()[..., None, None], axes_of("20"))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    assert volume.shape == SHAPE and volume.header.get_xyzt_units()[0] == "micron"
    assert volume.get_filename() == str(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.affine, nibabel.load(tmp_path / "a.nii.gz").affine)
    np.testing.assert_array_equal(voxels(volume), values())
