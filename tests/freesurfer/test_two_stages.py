"""Two-stage prediction: a box is found, cropped, segmented and put back, whatever the axes and voxels of the input."""

import nibabel
import numpy as np
import pytest
import SimpleITK
from subjects import LIA, turned
from two_stage_fakes import LEFT, RIGHT, FakePredictor, expected_ids, models, predict, scene

from nnunetv2_mamba.freesurfer.cases import predict_cases
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


def test_a_model_that_knows_no_box_has_that_of_its_patch(tmp_path):
    two_stage = models(second=FakePredictor({"left": 1}, patch=(6, 10, 14), orientation="LIA"))
    predict(tmp_path, scene(), two_stage=two_stage)
    assert two_stage.second.predictor.seen[0][0].shape == (6, 10, 14)
    with pytest.raises(ValueError, match="--box"):
        Stage(FakePredictor({"left": 1}, patch=(6, 10))).trained_box_mm()


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


def test_a_case_without_the_region_is_named_and_the_others_go_on(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for name, array in (("a", scene(left=None, right=None)), ("b", scene(left=None)), ("c", scene())):
        nibabel.save(nibabel.Nifti1Image(array, LIA), tmp_path / "in" / f"{name}_0000.nii.gz")
    (tmp_path / "in" / "d_0000.nii.gz").write_bytes(b"nothing")
    assert predict_cases(models(), tmp_path / "in", tmp_path / "out") == ["a", "d"]
    output = capsys.readouterr().out
    assert "a: FAILED: the first stage found no left, no right" in output
    assert "b: left was not found" in output and "d: FAILED: " in output
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["b.nii.gz", "c.nii.gz"]
    again = models()
    (tmp_path / "out" / "b.nii.gz").unlink()
    assert predict_cases(again, tmp_path / "in", tmp_path / "out", overwrite=False) == ["a", "d"]
    assert len(again.second.predictor.seen) == 1


def test_structures_by_name_or_number():
    stage = Stage(FakePredictor({"left": 1, "both": [1, 2]}))
    assert stage.values(["left", "both"]) == {"left": [1], "both": [1, 2]}
    assert stage.values(["1"]) == {"left": [1]}
    for wrong in ("amygdala", "7", "background", "0"):
        with pytest.raises(ValueError, match=f"no structure '{wrong}'; it has left, both"):
            stage.values([wrong])


def test_models_of_different_channels_do_not_fit(tmp_path):
    second = FakePredictor({"left": 1})
    second.dataset_json["channel_names"] = {"0": "T1", "1": "T2"}
    with pytest.raises(ValueError, match="takes 1 channel"):
        predict_cases(models(second=second), tmp_path, tmp_path / "out")
