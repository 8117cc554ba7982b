import gzip
import json
import re
import shutil

import layouts
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunetv2_mamba.image_files import check_complete
from nnunetv2_mamba.packaging import case_predictor
from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.image_io import count_non_finite, write_image
from nnunetv2_mamba.packaging.inference_settings import Choices
from nnunetv2_mamba.packaging.member import Member
from nnunetv2_mamba.packaging.tile_predictor import TilePredictor


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
    write_image(predictor.segment(files).image, tmp_path / "organs.mha")
    assert layouts.geometry(tmp_path / "organs.mha") == layouts.geometry(files[0])
    assert layouts.geometry(files[0])[2:] == (layouts.ORIGIN, tuple(layouts.ASKEW))
    np.testing.assert_array_equal(
        layouts.voxels(tmp_path / "organs.mha"), layouts.voxels(trained_model.references["case_0"])
    )


def test_a_reader_that_knows_nifti_only_gets_nifti(trained_model, tmp_path):
    """Models of nibabel's readers, for grand-challenge's images; this one turns the axes and back."""
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    plans = json.loads((folder / "plans.json").read_text())
    (folder / "plans.json").write_text(json.dumps({**plans, "image_reader_writer": "NibabelIOWithReorient"}))
    slugs = [f"mri-{number}" for number in range(4)]
    inputs = layouts.grand_challenge(tmp_path / "input", slugs, trained_model.cases["case_0"])
    files = [next((inputs / "images" / slug).iterdir()) for slug in slugs]
    choices = Choices(("0",), mirroring=False, step_size=1.0)
    write_image(CasePredictor(folder, choices, "cpu").segment(files).image, tmp_path / "organs.mha")
    assert layouts.geometry(tmp_path / "organs.mha") == layouts.geometry(files[0])
    nnunets = nnUNetPredictor(1.0, use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False)
    nnunets.initialize_from_trained_model_folder(str(folder), (0,))
    images = [str(file) for file in trained_model.cases["case_0"]]
    nnunets.predict_from_files_sequential([images], [str(tmp_path / "expected")])
    expected = layouts.voxels(tmp_path / "expected.nii.gz")
    assert len(np.unique(expected)) > 1
    np.testing.assert_array_equal(layouts.voxels(tmp_path / "organs.mha"), expected)


def test_a_model_with_no_axes_to_mirror_over(trained_model, tmp_path):
    """nnU-Net's ``max(mirror_axes)`` would fail in every case; without mirroring it would not be seen before."""
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    for file in folder.glob("fold_*/checkpoint_final.pth"):
        torch.save({**torch.load(file, weights_only=False), "inference_allowed_mirroring_axes": []}, file)
    of_none = CasePredictor(folder, Choices(("0", "1")), "cpu")
    unmirrored = CasePredictor(trained_model.folder, Choices(("0", "1"), mirroring=False), "cpu")
    labels = [
        SimpleITK.GetArrayFromImage(each.segment(trained_model.cases["case_0"]).image) for each in (of_none, unmirrored)
    ]
    np.testing.assert_array_equal(*labels)


def change(file, function):
    image = SimpleITK.ReadImage(file)
    SimpleITK.WriteImage(function(image) or image, file)


def cut_before_compression(file):
    """What is left is a sound gzip file of a third of the image."""
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content[: len(content) // 3]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.unlink(), "is missing"),
        (layouts.truncate, "is damaged"),
        (cut_before_compression, "is damaged: it has .* bytes of"),
        (lambda file: file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:352])), "has 352 bytes of"),
        (lambda file: file.write_bytes(b"no image"), "cannot be read"),
        (lambda file: change(file, lambda image: image[:-1]), "different voxel grids: 19 x 24 x 16 and 20 x 24 x 16"),
        (lambda file: change(file, lambda image: image.SetOrigin((0, 5, 0))), "different voxel grids: origin"),
        (
            lambda file: change(file, lambda image: image.SetDirection(layouts.ASKEW)),
            "different voxel grids: direction",
        ),
        (lambda file: change(file, lambda image: image[:, :, 0]), "2 dimensions .*nnUNetv2_predict takes"),
    ],
)
def test_wrong_images_are_named(predictor, files, spoil, message):
    spoil(files[2])
    with pytest.raises((ValueError, FileNotFoundError), match=f"{files[2].name}.*{message}"):
        predictor.segment(files)


def test_a_voxel_size_that_would_fill_the_memory_is_refused(predictor, files, monkeypatch):
    monkeypatch.setattr(Member, "prepare", None)
    for file in files:
        change(file, lambda image: image.SetSpacing((1000, 1000, 1000)))
    message = r"of voxels of 1000 x 1000 x 1000 mm, .* the model makes \d.*, which need \d+ GiB"
    with pytest.raises(ValueError, match=f"{files[0].name}.*{message}"):
        predictor.segment(files)


def test_what_is_cropped_away_takes_no_memory(predictor, files, monkeypatch):
    """4 channels in fp32 and one in fp64, of 20 x 24 x 16 voxels or, cropped, of 10 x 12 x 8."""
    monkeypatch.setattr(case_predictor, "free_memory", lambda: (4 * 4 + 8) * 10 * 12 * 8)
    with pytest.raises(ValueError, match="the model makes 16 x 24 x 20"):
        predictor.segment(files)
    for file in files:
        change(file, lambda image: SimpleITK.ConstantPad(image[5:15, 6:18, 4:12], (5, 6, 4), (5, 6, 4), 0))
    predictor.segment(files)


def as_mha(file, compress=True):
    """The image, without what .mha has no place for."""
    image = SimpleITK.ReadImage(file)
    target = file.with_name(file.name.replace(".nii.gz", ".mha"))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(SimpleITK.GetArrayFromImage(image)), target, compress)
    return target


def flip_a_byte(content):
    position = len(content) * 3 // 4
    return content[:position] + bytes([content[position] ^ 0xFF]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("compress", "spoil", "message"),
    [
        (True, flip_a_byte, "is damaged"),
        (True, lambda content: content[:-5], "is damaged: it has .* bytes of"),
        (True, lambda content: content.replace(b"DimSize = 20", b"DimSize = 40"), "is damaged: it has .* bytes of"),
        (True, lambda content: content.replace(b"LOCAL", b"other.raw"), "is damaged: its voxels are in another file"),
        (False, lambda content: content[: len(content) // 2], "is damaged: it has .* bytes of"),
        (False, lambda content: content.replace(b"DimSize = 20", b"DimSize = 0"), "has no voxels: 0 x 24 x 16"),
    ],
)
def test_damaged_mha_is_named(predictor, files, compress, spoil, message):
    images = [as_mha(file, compress) for file in files]
    predictor.segment(images)
    for file in images:  # all, to be on one grid
        file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(ValueError, match=f"{images[0].name}.* {message}"):
        predictor.segment(images)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_of_either_byte_order_is_complete(tmp_path, kind, order):
    file = tmp_path / "image.nii.gz"
    header = kind.header_class(endianness=order)
    header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"moves the voxels further back"))
    nibabel.save(kind(np.ones((4, 5, 6), np.int16), np.eye(4), header), file)
    check_complete(file)
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())[:-1]))
    with pytest.raises(ValueError, match="image.nii.gz is damaged: it has .* bytes of"):
        check_complete(file)


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_nan_and_infinity_are_taken_as_zero_and_said(predictor, files, tmp_path, ending):
    """SimpleITK reads them of NIfTI files as 0; those of others would make everything NaN."""
    images = [as_mha(file) for file in files] if ending == ".mha" else files
    image = SimpleITK.ReadImage(images[2])
    voxels = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    finite, spoilt = voxels.copy(), voxels.copy()
    finite[2:4], spoilt[2], spoilt[3] = 0, np.nan, np.inf
    results = []
    for name, array in (("finite", finite), ("spoilt", spoilt)):
        written = SimpleITK.GetImageFromArray(array)
        written.CopyInformation(image)
        SimpleITK.WriteImage(written, tmp_path / f"{name}{ending}")
        results.append(predictor.segment([*images[:2], tmp_path / f"{name}{ending}", images[3]]))
    np.testing.assert_array_equal(*(SimpleITK.GetArrayFromImage(result.image) for result in results))
    assert results[0].notes == ()
    count = 2 * spoilt[0].size
    assert results[1].notes == (
        f"{tmp_path / f'spoilt{ending}'} has {count} voxels that are NaN or infinite; they were taken as 0",
    )


def test_nan_that_the_network_gives_is_said(predictor, files, monkeypatch):
    """As in 16 bits, of a network that was tried in 32."""
    logits = TilePredictor._logits

    def spoilt(self, x):
        found = logits(self, x)
        found[:, 1, 0, 0, :2] = float("nan")
        return found

    assert predictor.segment(files).notes == ()
    monkeypatch.setattr(TilePredictor, "_logits", spoilt)
    (note,) = predictor.segment(files).notes
    assert re.fullmatch(r"the network gave NaN for [1-9]\d* voxels; it may need to compute in fp32", note)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_is_not_finite_is_counted_also_where_the_ending_is_wrong(kind, order, tmp_path):
    """ITK, and so nnU-Net, reads what is called ``.nii.gz`` and is not compressed."""
    voxels = np.zeros((5, 6, 7), np.float32)
    voxels[1, 2, 3:5], voxels[4, 5, 6] = np.nan, -np.inf
    file, wrong = tmp_path / "image.nii", tmp_path / "wrong.nii.gz"
    nibabel.save(kind(voxels, np.eye(4), kind.header_class(endianness=order)), file)
    wrong.write_bytes(file.read_bytes())
    assert count_non_finite(file) == count_non_finite(wrong) == 3


def test_what_32_bits_do_not_hold_is_not_finite(tmp_path):
    file = tmp_path / "image.mha"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.array([[[1e38, 1e39, -1e300, np.nan]]])), file)
    assert count_non_finite(file) == 3


def test_too_few_channels_are_named(predictor, files):
    with pytest.raises(ValueError, match=f"takes 4 channel.*has 3: .*{files[0].name}"):
        predictor.segment(files[:3])


def other_folds(folder, change):
    """The model's copy, the weights of its second fold changed."""
    file = folder / "fold_1" / "checkpoint_final.pth"
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["network_weights"] = change(checkpoint["network_weights"])
    torch.save(checkpoint, file)
    return folder


def rename_the_first(weights):
    (name, first), *others = weights.items()
    return {f"{name}.renamed": first, **dict(others)}


def test_weights_that_do_not_fit_are_named_in_any_fold(trained_model, tmp_path):
    folder = other_folds(shutil.copytree(trained_model.folder, tmp_path / "model"), rename_the_first)
    for folds in (("0", "1"), ("1", "0")):
        with pytest.raises(
            ValueError,
            match=r"fold_1/checkpoint_final.pth: the weights do not fit.*unknown keys .*\.renamed.*, missing",
        ):
            CasePredictor(folder, Choices(folds), "cpu")


def test_the_folds_are_averaged_and_the_first_stays_loaded(trained_model, tmp_path):
    def shifted(weights):
        return {name: value + 0.01 if value.is_floating_point() else value for name, value in weights.items()}

    folder = other_folds(shutil.copytree(trained_model.folder, tmp_path / "model"), shifted)
    files = trained_model.cases["case_0"]
    predictor = CasePredictor(folder, Choices(("0", "1")), "cpu")
    first = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    state = predictor.model.network.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in state.items())
    theirs = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), (0, 1))
    theirs.predict_from_files_sequential([[str(file) for file in files]], [str(tmp_path / "reference")])
    image = SimpleITK.GetArrayFromImage(predictor.segment(files).image)
    np.testing.assert_array_equal(image, layouts.voxels(tmp_path / "reference.nii.gz"))
    assert not np.array_equal(image, layouts.voxels(trained_model.references["case_0"]))


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
