import json
import shutil

import layouts
import numpy as np
import pytest
import SimpleITK

from nnunetv2_mamba.packaging.images import write_atomically
from nnunetv2_mamba.packaging.predictor import CasePredictor
from nnunetv2_mamba.packaging.settings import Choices


@pytest.fixture(scope="module")
def predictor(trained_model):
    return CasePredictor(trained_model.folder, Choices(("0", "1")), "cpu")


@pytest.fixture
def files(trained_model, tmp_path):
    """The channels of a case, to be spoilt."""
    copies = [tmp_path / file.name for file in trained_model.cases["case_0"]]
    for copy, file in zip(copies, trained_model.cases["case_0"], strict=True):
        copy.write_bytes(file.read_bytes())
    return copies


def test_the_voxels_are_those_of_nnunet(predictor, trained_model):
    for name, files in trained_model.cases.items():
        image = predictor.segment(files).image
        np.testing.assert_array_equal(
            SimpleITK.GetArrayFromImage(image), layouts.voxels(trained_model.references[name])
        )
    assert len(np.unique(layouts.voxels(trained_model.references["case_0"]))) > 1


def test_mha_that_lies_askew_keeps_its_geometry_bit_by_bit(predictor, trained_model, tmp_path):
    slugs = [f"mri-{number}" for number in range(4)]
    folder = layouts.grand_challenge(tmp_path / "input", slugs, trained_model.cases["case_0"])
    files = [next((folder / "images" / slug).iterdir()) for slug in slugs]
    write_atomically(predictor.segment(files).image, tmp_path / "out/organs.mha")
    assert layouts.geometry(tmp_path / "out/organs.mha") == layouts.geometry(files[0])
    assert layouts.geometry(files[0])[2:] == (layouts.ORIGIN, tuple(layouts.ASKEW))
    np.testing.assert_array_equal(
        layouts.voxels(tmp_path / "out/organs.mha"), layouts.voxels(trained_model.references["case_0"])
    )
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["organs.mha"]


def test_a_reader_that_knows_nifti_only_gets_nifti(trained_model, tmp_path):
    """Models of nibabel's readers, for grand-challenge's images; this one turns the axes and back."""
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "NibabelIOWithReorient"}))
    slugs = [f"mri-{number}" for number in range(4)]
    inputs = layouts.grand_challenge(tmp_path / "input", slugs, trained_model.cases["case_0"])
    files = [next((inputs / "images" / slug).iterdir()) for slug in slugs]
    write_atomically(CasePredictor(folder, Choices(("0",)), "cpu").segment(files).image, tmp_path / "organs.mha")
    assert layouts.geometry(tmp_path / "organs.mha") == layouts.geometry(files[0])


def change(file, function):
    image = SimpleITK.ReadImage(file)
    SimpleITK.WriteImage(function(image) or image, file)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (layouts.truncate, "is damaged"),
        (lambda file: file.write_bytes(b"no image"), "cannot be read"),
        (lambda file: change(file, lambda image: image[:-1]), "different voxel grids: 19 x 24 x 16 and 20 x 24 x 16"),
        (lambda file: change(file, lambda image: image.SetOrigin((0, 5, 0))), "different voxel grids: origin"),
        (
            lambda file: change(file, lambda image: image.SetDirection(layouts.ASKEW)),
            "different voxel grids: direction",
        ),
        (lambda file: change(file, lambda image: image[:, :, 0]), "2 dimensions"),
    ],
)
def test_wrong_images_are_named(predictor, files, spoil, message):
    spoil(files[2])
    with pytest.raises((ValueError, FileNotFoundError), match=f"{files[2].name}.*{message}"):
        predictor.segment(files)


def test_nan_is_named(predictor, files, tmp_path):
    file = tmp_path / "nan.mha"  # SimpleITK reads NaN of NIfTI files as 0
    SimpleITK.WriteImage(SimpleITK.ReadImage(files[2]) * float("nan"), file)
    with pytest.raises(ValueError, match="nan.mha has voxels that are NaN"):
        predictor.segment([*files[:2], file, files[3]])


def test_too_few_channels_are_named(predictor, files):
    with pytest.raises(ValueError, match=f"takes 4 channel.*has 3: .*{files[0].name}"):
        predictor.segment(files[:3])


def test_bf16_is_close_and_fp32_is_the_default_on_the_cpu(trained_model):
    images = {
        precision: SimpleITK.GetArrayFromImage(
            CasePredictor(trained_model.folder, Choices(("0", "1"), precision=precision), "cpu")
            .segment(trained_model.cases["case_0"])
            .image
        )
        for precision in ("bf16", "fp32")
    }
    reference = layouts.voxels(trained_model.references["case_0"])
    np.testing.assert_array_equal(images["fp32"], reference)
    assert 0.9 < (images["bf16"] == reference).mean() < 1


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "organs.mha").mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="organs.mha"):
        write_atomically(SimpleITK.Image(2, 2, 2, SimpleITK.sitkUInt8), tmp_path / "organs.mha")
    assert [path.name for path in tmp_path.iterdir()] == ["organs.mha"]
