"""Pictures of single cases: which slices, which way up, and what lies on what."""

import numpy as np
import pytest
import SimpleITK

from nnunetv2_mamba.evaluation.report.overlays import ShownCase, overlay

SHAPE, SPACING = (6, 8, 10), (3.0, 2.0, 1.0)  # of z, y, x: up, to the back, to the left
STRUCTURE = (slice(4, 5), slice(1, 3), slice(6, 9))  # above, in front, on the left
BOX = (slice(1, 6), slice(0, 6), slice(3, 10))  # three voxels more on each side


def volume(value=1, where=STRUCTURE):
    array = np.zeros(SHAPE, np.uint8)
    array[where] = value
    return array


def shown_case(folder, reference, prediction, orientation="LPS"):
    files = [folder / f"{name}.nii.gz" for name in ("image", "reference", "prediction")]
    for file, array in zip(files, (np.arange(np.prod(SHAPE)).reshape(SHAPE), reference, prediction), strict=True):
        image = SimpleITK.GetImageFromArray(array.astype(np.int16))
        image.SetSpacing(SPACING[::-1])
        SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, orientation), file)
    return ShownCase("case", files[0], files[1], {"model": files[2]})


def columns(figure, number):
    """Axial, coronal and sagittal panels of a column: the image, the reference, the prediction."""
    return [panel for panel in figure.axes if panel.images][number::3]


def labelled(panel):
    return ~np.ma.getmaskarray(panel.images[1].get_array())


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR"])
def test_left_is_on_the_right_and_up_is_up_whatever_the_axes_of_the_file(orientation, tmp_path):
    case = shown_case(tmp_path, volume(), volume(2), orientation)
    figure, _ = overlay(case, {1: "a", 2: "b"}, {"model": "0.5"})
    slices = ((4, *BOX[1:]), (BOX[0], 1, BOX[2]), (*BOX[:2], 6))
    for number, value in ((1, 0), (2, 1)):
        for panel, cut in zip(columns(figure, number), slices, strict=True):
            np.testing.assert_array_equal(labelled(panel), volume(1)[cut] == 1)
            assert set(panel.images[1].get_array().compressed()) == {value}
    for panel, cut, aspect in zip(columns(figure, 0), slices, (2 / 1, 3 / 1, 3 / 2), strict=True):
        grey = np.asarray(panel.images[0].get_array())
        assert grey.shape == volume()[cut].shape and (np.diff(grey, axis=1) >= 0).all()  # rising to the left and back
        assert panel.get_aspect() == pytest.approx(aspect)
    assert [panel.yaxis_inverted() for panel in columns(figure, 1)] == [True, False, False]
    assert [panel.get_ylabel() for panel in columns(figure, 0)] == ["axial", "coronal", "sagittal"]


def test_slices_are_those_with_most_of_the_labels(tmp_path):
    """Not of what the reference ignores; nor of the prediction, unless the reference has nothing."""
    sparse = volume(9, (slice(0, 3),)) | volume()
    everywhere = volume(1, (slice(None),))
    figure, _ = overlay(shown_case(tmp_path, sparse, everywhere), {1: "a"}, {})
    np.testing.assert_array_equal(labelled(columns(figure, 1)[0]), volume()[4, BOX[1], BOX[2]] == 1)
    figure, _ = overlay(shown_case(tmp_path, volume(9, (slice(0, 3),)), volume()), {1: "a"}, {})
    np.testing.assert_array_equal(labelled(columns(figure, 2)[0]), volume()[4, BOX[1], BOX[2]] == 1)
    figure, _ = overlay(shown_case(tmp_path, volume(0), volume(0)), {1: "a"}, {})
    assert columns(figure, 0)[0].images[0].get_array().shape == SHAPE[1:]


def test_an_image_of_one_slice_is_one_plane(tmp_path):
    files = [tmp_path / f"{name}.png" for name in ("image", "reference", "prediction")]
    plane = volume()[4]
    for file in files:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(plane), file)
    figure, alt = overlay(ShownCase("case", *files[:2], {"model": files[2]}), {1: "a"}, {})
    (panel,) = columns(figure, 1)
    assert labelled(panel).sum() == plane.sum() and "in 1 planes" in alt


def test_models_may_be_called_as_the_other_columns_are(tmp_path):
    case = shown_case(tmp_path, volume(), volume(2))
    prediction = case.predictions["model"]
    both = ShownCase(case.name, case.image, case.reference, {"reference": prediction, "image": prediction})
    figure, _ = overlay(both, {1: "a", 2: "b"}, {})
    drawn = [panel for panel in figure.axes if panel.images][:4]  # of the first plane
    assert [panel.get_title().splitlines()[0] for panel in drawn] == ["image", "reference", "reference", "image"]
    assert [set(panel.images[1].get_array().compressed()) for panel in drawn[1:]] == [{0}, {1}, {1}]


def test_files_of_other_shapes_are_named(tmp_path):
    case = shown_case(tmp_path, volume(), volume())
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume()[1:]), case.predictions["model"])
    with pytest.raises(ValueError, match=r"case: model has the shape \(5, 8, 10\), the reference \(6, 8, 10\)"):
        overlay(case, {1: "a"}, {})
