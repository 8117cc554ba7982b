"""Two-stage prediction: a box is found, cropped, segmented and put back, whatever the axes and voxels of the input."""

import gzip
from itertools import product

import nibabel
import numpy as np
import pytest
import SimpleITK
from subjects import LIA, turned
from two_stage_fakes import (
    IDS,
    LEFT,
    READERS,
    RIGHT,
    FakePredictor,
    expected_ids,
    models,
    predict,
    scene,
    with_other_sform,
)

from nnunetv2_mamba.freesurfer.folder_prediction import predict_cases
from nnunetv2_mamba.freesurfer.two_stage import Stage


def test_the_box_is_cropped_segmented_and_put_back(tmp_path):
    array, two_stage = scene(), models()
    ids, image = predict(tmp_path, array, two_stage=two_stage)
    assert image.get_data_dtype() == np.uint16
    crop, spacing = two_stage.second.predictor.seen[0]
    assert crop.shape == (8, 12, 16) and spacing == [1, 1, 1]  # D, H, W of nnU-Net's axes
    # in the image's axes: the region 10-23, 10-14, 12-16 in the middle of 16, 12, 8
    box = (slice(9, 25), slice(6, 18), slice(10, 18))
    np.testing.assert_array_equal(crop.transpose(2, 1, 0), array[box])
    expected = expected_ids(array)
    expected[24, 17, 17] = 77
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "PIR", "ASL"])
def test_any_axes_go_to_the_models_and_come_back(tmp_path, orientation):
    array = scene()
    reference, _ = predict(tmp_path, array)
    other, affine = turned(array, LIA, orientation)
    two_stage = models()
    ids, image = predict(tmp_path, other, affine, two_stage)
    np.testing.assert_array_equal(two_stage.first.predictor.seen[0][0].transpose(2, 1, 0), array)
    np.testing.assert_allclose(image.affine, affine)
    assert ids.shape == other.shape
    np.testing.assert_array_equal(turned(ids.astype(np.int32), affine, "LIA")[0], reference)


def test_oblique_anisotropic_images_keep_their_place(tmp_path):
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.5, 2.0, 1.0])
    affine[:3, 3] = (-30, 12, 7)
    array, two_stage = scene(), models()
    ids, _ = predict(tmp_path, array, affine, two_stage)
    crop, spacing = two_stage.second.predictor.seen[0]
    # the axes become L, I, A: x stays, y and z swap. W 16 mm in voxels of 0.5, H 12 of 1, D 8 of 2
    np.testing.assert_allclose(spacing, [2, 1, 0.5], rtol=1e-5)
    assert crop.shape == (4, 12, 32)
    expected = expected_ids(array)
    assert np.count_nonzero(ids == 77) == 1
    np.testing.assert_array_equal(np.where(ids == 77, 0, ids), expected)
    written = SimpleITK.ReadImage(tmp_path / "out" / "case.nii.gz")
    given = SimpleITK.ReadImage(tmp_path / "in" / "case_0000.nii.gz")
    for property_ in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(written, property_)(), getattr(given, property_)(), atol=1e-5)


@pytest.mark.parametrize("degrees", [45, -45, 135, -135])
@pytest.mark.parametrize("axes", [(0, 1), (1, 2), (0, 2)])
def test_images_as_near_to_one_orientation_as_to_another_keep_their_place(tmp_path, degrees, axes):
    angle = np.deg2rad(degrees)
    affine = np.eye(4)
    affine[np.ix_(axes, axes)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, 3] = (-30, 12, 7)
    # of three sizes, with the regions at no two axes' same place
    array = scene(left=((20, 25), (10, 14), (12, 16)), right=((4, 9), (11, 14), (30, 36)), shape=(28, 34, 44))
    ids, image = predict(tmp_path, array, affine, models(margin_mm=3.0))
    assert ids.shape == array.shape and np.count_nonzero(ids == 77) == 1
    np.testing.assert_array_equal(np.where(ids == 77, 0, ids), expected_ids(array))
    np.testing.assert_allclose(image.affine, affine, atol=1e-6)


def test_a_region_at_the_border_and_a_volume_smaller_than_the_box(tmp_path):
    array = scene(left=((0, 3), (0, 4), (46, 50)), right=None, shape=(40, 10, 50))
    two_stage = models()
    ids, _ = predict(tmp_path, array, two_stage=two_stage)
    assert two_stage.second.predictor.seen[0][0].shape == (8, 10, 16)
    expected = expected_ids(array)
    expected[15, 9, 49] = 77
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(
    ("options", "shape"),
    [({"box_mm": (10, 20, 30)}, (10, 20, 30)), ({"margin_mm": 2.0}, (8, 8, 17)), ({}, (8, 12, 16))],
)
def test_the_box_can_be_chosen(tmp_path, options, shape):
    two_stage = models(**options)
    predict(tmp_path, scene(), two_stage=two_stage)
    assert two_stage.second.predictor.seen[0][0].shape == shape


@pytest.mark.parametrize(("backward", "shape"), [([0, 1, 2], (6, 16, 14)), ([2, 0, 1], (14, 6, 16))])
def test_a_model_that_knows_no_box_has_that_of_its_patch(tmp_path, backward, shape):
    """The plans may have other axes than the images: the patch of the images' first axis is their last here."""
    two_stage = models(second=FakePredictor({"left": 1}, patch=(6, 16, 14), orientation="LIA"))
    two_stage.second.predictor.plans_manager.transpose_backward = backward
    predict(tmp_path, scene(), two_stage=two_stage)
    assert two_stage.second.predictor.seen[0][0].shape == shape


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"patch": (6, 10)}, "is 2D, so its patch gives no box; use --box or --margin"),
        ({"roi_box_mm": 96}, "roi_box_mm in the model's dataset.json must be three lengths above 0, not 96"),
        ({"roi_box_mm": [96, 96]}, "must be three lengths above 0"),
        ({"roi_box_mm": [96, 96, "96"]}, "must be three lengths above 0"),
        ({"roi_box_mm": [96, 0, 96]}, "must be three lengths above 0"),
    ],
)
def test_a_model_without_a_box_is_refused_before_the_first_case(tmp_path, model, said):
    """Unless the user gives one."""
    labels = {"left": 1, "right": 2}
    without, given = (models(second=FakePredictor(labels, **model), margin_mm=margin) for margin in (None, 2.0))
    with pytest.raises(ValueError, match=said):
        predict(tmp_path, scene(), two_stage=without)
    assert not without.first.predictor.seen
    predict(tmp_path, scene(), two_stage=given)


def test_plain_labels_and_models_without_ids(tmp_path):
    array = scene()
    labels = np.select([array == LEFT, array == RIGHT], [1, 2], 0)
    plain, image = predict(tmp_path, array, two_stage=models(freesurfer_ids=False))
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.where(plain == 3, 0, plain), labels)
    without, _ = predict(tmp_path, array, two_stage=models(second=FakePredictor({"left": 1, "right": 2})))
    np.testing.assert_array_equal(without, labels)
    second = FakePredictor({"left": 1, "right": 2, "corner": 3}, freesurfer_ids={"left": 17})
    with pytest.raises(ValueError, match="no id of right, corner"):
        predict(tmp_path, array, two_stage=models(second=second))


def test_mgz_as_freesurfer_writes_it_is_taken(tmp_path):
    ids, image = predict(tmp_path, scene(), name="case.mgz")
    np.testing.assert_array_equal(image.affine, LIA)
    assert set(np.unique(ids)) == {0, 77, 1203, 2203}


def test_structures_by_name_or_number():
    stage = Stage(FakePredictor({"left": 1, "both": [1, 2]}))
    assert stage.values(["left", "both"]) == {"left": (1,), "both": (1, 2)}
    assert stage.values(["1"]) == {"left": (1,)}
    assert Stage(FakePredictor({"left": "1", "both": ["1", "2"]})).values(["1", "both"]) == {
        "left": (1,),
        "both": (1, 2),
    }
    for wrong in ("amygdala", "7", "background", "0"):
        with pytest.raises(ValueError, match=f"no structure '{wrong}'; it has left, both"):
            stage.values([wrong])


def test_what_is_ignored_in_training_is_no_structure():
    stage = Stage(FakePredictor({"left": 1, "ignore": 2}, freesurfer_ids={"left": 17}))
    assert stage.freesurfer_ids().tolist() == [0, 17]
    with pytest.raises(ValueError, match="no structure 'ignore'; it has left$"):
        stage.values(["ignore"])


def test_more_labels_than_a_byte_has_are_kept(tmp_path):
    array = scene()
    many = FakePredictor({f"s{value}": value for value in range(1, 301)})
    many.predict_single_npy_array = lambda images, *_: np.where(images[0] > 100, 300, 0).astype(np.uint16)
    labels, image = predict(tmp_path, array, two_stage=models(second=many))
    assert image.get_data_dtype() == np.uint16
    np.testing.assert_array_equal(labels, np.where(array > 100, 300, 0))


@pytest.mark.parametrize(
    ("ids", "said"), [(70000, "from 0 to 65535: left"), ("17", "from 0 to 65535: left"), (-1, "from 0 to 65535: left")]
)
def test_ids_that_no_file_can_have_are_named(ids, said):
    with pytest.raises(ValueError, match=said):
        Stage(FakePredictor({"left": 1}, freesurfer_ids={"left": ids})).freesurfer_ids()


@pytest.mark.parametrize("readers", list(product(READERS, READERS)))
def test_stages_of_other_readers_work_on_one_grid(tmp_path, readers):
    array = scene()
    angled, affine = turned(array, LIA, "PIR")
    two_stage = models(
        FakePredictor({"left": 1, "right": 2}, reader=readers[0]),
        FakePredictor({"left": 1, "right": 2, "corner": 3}, reader=readers[1], freesurfer_ids=IDS),
        margin_mm=3.0,
    )
    ids, image = predict(tmp_path, angled, affine, two_stage)
    assert np.count_nonzero(ids == 77) == 1
    np.testing.assert_array_equal(np.where(ids == 77, 0, ids), expected_ids(angled))
    np.testing.assert_allclose(image.affine, affine)


def test_where_the_forms_disagree_both_stages_and_the_box_have_itks_voxels_and_the_output_both_forms(tmp_path):
    affine, array = np.diag([-1.3158, -1.3158, 10, 1]), scene(shape=(40, 30, 20))
    (tmp_path / "in").mkdir()
    content = with_other_sform(array, affine, np.diag([-1, -1, 1, 1]))
    (tmp_path / "in" / "a_0000.nii.gz").write_bytes(gzip.compress(content))
    labels = {"left": 1, "right": 2}
    both = models(FakePredictor(labels), FakePredictor(labels), margin_mm=4.0)
    assert predict_cases(both, tmp_path / "in", tmp_path / "out") == []
    for stage in (both.first, both.second):
        np.testing.assert_allclose(stage.predictor.seen[0][1], (10, 1.3158, 1.3158))
    # the region is 13 x 4 x 4; 4 mm are 1 voxel of 10 mm and 4 of 1.3158 mm
    assert both.second.predictor.seen[0][0].shape == (4 + 2, 4 + 8, 13 + 8)
    written = gzip.decompress((tmp_path / "out" / "a.nii.gz").read_bytes())
    assert written[76:108] == content[76:108]  # the voxels' sizes
    assert written[123:124] == content[123:124] and written[252:328] == content[252:328]  # the unit, both forms
    given, made = (SimpleITK.ReadImage(str(tmp_path / name)) for name in ("in/a_0000.nii.gz", "out/a.nii.gz"))
    for property_ in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(made, property_)() == getattr(given, property_)()


@pytest.mark.parametrize("unit", ["micron", "meter"])
def test_other_units_are_read_as_mm_and_stay_in_the_output(tmp_path, unit):
    factor = {"micron": 1000.0, "meter": 0.001}[unit]
    image = nibabel.Nifti1Image(scene(), np.diag([factor, factor, factor, 1]) @ LIA)
    image.header.set_xyzt_units(unit)
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "a_0000.nii.gz")
    both = models(margin_mm=2.0)
    assert predict_cases(both, tmp_path / "in", tmp_path / "out") == []
    for stage in (both.first, both.second):
        np.testing.assert_allclose(stage.predictor.seen[0][1], (1, 1, 1), rtol=1e-6)
    assert both.second.predictor.seen[0][0].shape == (8, 8, 17)
    given, made = (nibabel.load(tmp_path / name) for name in ("in/a_0000.nii.gz", "out/a.nii.gz"))
    assert made.header.get_xyzt_units()[0] == unit
    np.testing.assert_array_equal(made.affine, given.affine)


@pytest.mark.parametrize("name", ["case.mgz", "case_0000.nii.gz"])
def test_one_slice_and_further_axes_of_one_voxel(tmp_path, name):
    array = scene(left=((20, 23), (10, 14), (0, 1)), right=((10, 13), (10, 14), (0, 1)), shape=(40, 30, 1))
    given = array[..., None, None] if name.endswith("nii.gz") else array
    labels, image = predict(tmp_path, given, two_stage=models(freesurfer_ids=False, margin_mm=1.0), name=name)
    assert labels.shape == (40, 30, 1)
    assert set(np.unique(labels[array > 100])) <= {1, 2, 3} and not labels[:8].any()
