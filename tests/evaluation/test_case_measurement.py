"""Cases: every label of two images measured at once, and what the files may hold."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from masks import ball, blobs
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO, NibabelIOWithReorient
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from nnunetv2_mamba.evaluation.case_measurement import measure_files, measure_label_maps
from nnunetv2_mamba.evaluation.label_map import Geometry, LabelMap
from nnunetv2_mamba.evaluation.mask_pair import MaskPair
from nnunetv2_mamba.evaluation.measured_labels import read_labels
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.metrics import measure_masks

LABELS = {"labels": {"background": 0, "left": 1, "right": 2, "both ends": 5}}
REGIONS = {
    "labels": {"background": 0, "whole": [1, 2, 5], "core": [2, 5], "active": 5, "ignore": 6},
    "regions_class_order": [1, 2, 5],
}
SPACING = (2.0, 0.8, 1.1)  # slowest axis first


def label_map(seed, shape=(18, 22, 20), values=(1, 2, 5)):
    volume = np.zeros(shape, dtype=np.uint8)
    for number, value in enumerate(values):
        volume[blobs(shape, 10 * seed + number)] = value
    return volume


def write(path, array, spacing=SPACING, origin=(5, -7, 11), direction=None):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, path)
    return path


def measure(folder, reference, prediction, dataset=LABELS, reader=SimpleITKIO, ending=".nii.gz"):
    files = [folder / f"{name}{ending}" for name in ("reference", "prediction")]
    for file, array in zip(files, (reference, prediction), strict=True):
        if not isinstance(array, Path):
            write(file, array)
    return measure_files(*files, reader, read_labels(dataset, None), MetricOptions())


@pytest.mark.parametrize("dataset", [LABELS, REGIONS], ids=["labels", "regions and ignore"])
def test_all_labels_at_once_equal_each_label_alone(dataset, tmp_path):
    """Counts, Dice and IoU are nnU-Net's to the last bit; distances those of the uncropped masks."""
    reference, prediction = label_map(1), label_map(2)
    labels = read_labels(dataset, None)
    if labels.ignore:
        reference[blobs(reference.shape, 99, 0.3)] = labels.ignore
    result = measure(tmp_path, reference, prediction, dataset)
    regions = [label.values if len(label.values) > 1 else label.values[0] for label in labels.measured]
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("reference", "prediction")]
    expected = compute_metrics(*files, SimpleITKIO(), regions, labels.ignore)["metrics"]
    assert [*result["metrics"]] == [str(region) for region in expected]
    for label, (region, by_nnunet) in zip(labels.measured, expected.items(), strict=True):
        found = result["metrics"][str(region)]
        assert {name: found[name] for name in by_nnunet} == by_nnunet
        counted = reference != labels.ignore
        masks = [np.isin(array, label.values) & counted for array in (reference, prediction)]
        values = measure_masks(MaskPair(*masks, SPACING, np.nan), MetricOptions())
        assert {name: found[name] for name in values} == pytest.approx(values, rel=1e-6)
        assert (found["dice"], found["iou"]) == (by_nnunet["Dice"], by_nnunet["IoU"])
    assert result["shape"] == [18, 22, 20] and result["spacing"] == pytest.approx(SPACING)


def test_counting_takes_few_bytes_a_voxel():
    """Two small structures in a large image: what is made beside the images is theirs, and a byte or two a voxel."""
    shape = (96, 128, 128)
    indices = [np.ones(shape, np.uint8) for _ in range(2)]
    indices[0][40:44, 40:44, 40:44] = indices[1][41:45, 40:44, 40:44] = 2
    images = [LabelMap(array, Geometry(shape, SPACING)) for array in indices]
    labels = read_labels({"labels": {"background": 0, "left": 1}}, None)
    measure_label_maps(*images, labels, MetricOptions())  # imports
    tracemalloc.start()
    try:
        metrics = measure_label_maps(*images, labels, MetricOptions())["1"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    counts = {name: metrics[name] for name in ("TP", "FP", "FN", "TN")}
    assert counts == {"TP": 48, "FP": 16, "FN": 16, "TN": np.prod(shape) - 80}
    assert peak < 3 * np.prod(shape)


def test_what_is_ignored_does_not_count(tmp_path):
    """Whatever a prediction says there, every metric is the same."""
    reference = label_map(1)
    reference[:, :, 12:] = 6
    first, second = label_map(2), label_map(2)
    second[:, :, 12:] = label_map(3)[:, :, 12:]
    assert (first != second).any()
    assert measure(tmp_path, reference, first, REGIONS) == measure(tmp_path, reference, second, REGIONS)


def test_labels_in_one_image_or_none(tmp_path):
    reference, prediction = np.zeros((6, 6, 6), dtype=np.uint8), np.zeros((6, 6, 6), dtype=np.uint8)
    reference[1:4, 1:4, 1:4] = 1
    prediction[2:5, 1:4, 1:4] = 2
    metrics = measure(tmp_path, reference, prediction)["metrics"]
    for key in ("1", "2"):
        shares = [metrics[key][name] for name in ("Dice", "dice", "iou", "volume_similarity", "nsd")]
        assert shares == [0] * 5 and metrics[key]["hd95"] == metrics[key]["assd"] == np.inf
    assert metrics["1"]["n_ref"] == metrics["2"]["n_pred"] == 27
    assert np.isnan([metrics["5"][name] for name in ("Dice", "IoU", "dice", "iou", "nsd", "hd95", "assd")]).all()
    assert metrics["5"]["TN"] == 216


def test_an_image_of_one_slice_is_a_plane(tmp_path):
    """Its surface is the contour, as in a file of two dimensions, where nnU-Net makes up a thickness."""
    reference, prediction = (ball((40, 40), (20, c), 12).astype(np.uint8) for c in (18, 21))
    expected = measure_masks(MaskPair(reference > 0, prediction > 0, (0.5, 0.9), np.nan), MetricOptions())
    files = [tmp_path / f"{name}.nii.gz" for name in ("reference", "prediction")]
    for slices in (lambda a: a, lambda a: a[None], lambda a: a[:, None], lambda a: a[..., None]):
        for file, array in zip(files, (reference, prediction), strict=True):
            volume = slices(array)
            spacing = [0.5, 0.9]
            if volume.ndim == 3:
                spacing.insert(volume.shape.index(1), 7.0)
            write(file, volume, tuple(spacing), (0,) * volume.ndim)
        found = measure_files(*files, SimpleITKIO, read_labels(LABELS, None), MetricOptions())["metrics"]["1"]
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reader", [NibabelIO, NibabelIOWithReorient])
def test_readers_of_nifti_agree(reader, tmp_path):
    results = [measure(tmp_path, label_map(1), label_map(2), reader=used)["metrics"] for used in (SimpleITKIO, reader)]
    for key, metrics in results[0].items():
        assert results[1][key] == pytest.approx(metrics, rel=1e-6)


def test_png_and_tiff(tmp_path):
    plane, volume = label_map(1, (30, 40)), label_map(1)
    properties = {"spacing": SPACING}
    for reader, ending, array in ((NaturalImage2DIO, ".png", plane[None]), (Tiff3DIO, ".tif", volume)):
        files = [tmp_path / f"{name}{ending}" for name in ("reference", "prediction")]
        for file, shift in zip(files, (0, 2), strict=True):
            reader().write_seg(np.roll(array, shift, axis=-1), str(file), properties)
        found = measure_files(*files, reader, read_labels(LABELS, None), MetricOptions())["metrics"]["1"]
        spacing = SPACING if ending == ".tif" else (1, 1)
        masks = [np.squeeze(np.roll(array, shift, axis=-1) == 1) for shift in (0, 2)]
        expected = measure_masks(MaskPair(*masks, spacing, np.nan), MetricOptions())
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_a_tiff_without_its_spacing_has_that_of_the_other(tmp_path):
    """nnU-Net copies references to ``gt_segmentations`` without the files that say their spacing."""
    files = [tmp_path / name / "case.tif" for name in ("gt_segmentations", "validation")]
    for file, shift in zip(files, (0, 2), strict=True):
        file.parent.mkdir()
        Tiff3DIO().write_seg(np.roll(label_map(1), shift, axis=-1), str(file), {"spacing": SPACING})
    labels, options = read_labels(LABELS, None), MetricOptions()
    expected = measure_files(*files, Tiff3DIO, labels, options)
    assert expected["spacing"] == list(SPACING)
    files[0].with_suffix(".json").unlink()
    assert measure_files(*files, Tiff3DIO, labels, options) == expected
    assert measure_files(*files[::-1], Tiff3DIO, labels, options)["spacing"] == list(SPACING)
    files[1].with_suffix(".json").unlink()
    assert measure_files(*files, Tiff3DIO, labels, options)["spacing"] == [1, 1, 1]


# --- files that are refused, by name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacing": (2.0, 0.8, 1.2)}, r"spacing \(2, 0.8, 1.1\) and \(2, 0.8, 1.2\)"),
        ({"origin": (5, -7, 11.1)}, r"origin \(5, -7, 11\) and \(5, -7, 11.1\)"),
        ({"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}, "direction"),
        ({"array": label_map(2)[:-1]}, r"shape \(18, 22, 20\) and \(17, 22, 20\)"),
    ],
)
@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_another_geometry(change, message, reader, tmp_path):
    prediction = write(tmp_path / "prediction.nii.gz", **{"array": label_map(2), **change})
    with pytest.raises(ValueError, match="prediction.nii.gz lies elsewhere than .*reference.nii.gz"):
        measure(tmp_path, label_map(1), prediction, reader=reader)
    if reader is SimpleITKIO:  # nibabel's axes are the other way round, and its world is RAS
        with pytest.raises(ValueError, match=message):
            measure(tmp_path, label_map(1), prediction)


@pytest.mark.parametrize(("share", "differs"), [(0.05, True), (-0.05, True), (2e-4, True), (5e-5, False), (0, False)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_spacings_are_compared_to_a_ten_thousandth(share, differs, axis):
    shape = (4, 5, 6)
    other = [size * (1 + share * (number == axis)) for number, size in enumerate(SPACING)]
    found = Geometry(shape, SPACING).differences(Geometry(shape, tuple(other)))
    assert [text.split()[0] for text in found] == ["spacing"] * differs


def test_rounding_is_no_other_geometry(tmp_path):
    """A millionth of a spacing, a direction and an origin, as headers of 32-bit numbers give."""
    angle = 1e-5
    direction = (np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1)
    spacing = tuple(s * (1 + 1e-6) for s in SPACING)
    prediction = write(tmp_path / "prediction.nii.gz", label_map(2), spacing, (5.001, -7, 11), direction)
    assert measure(tmp_path, label_map(1), prediction)["metrics"]["1"]["dice"] > 0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (3, "no label in dataset.json: 3$"),
        (-1, "no label in dataset.json: -1$"),
        (6, "no label in dataset.json: 6$"),
        (0.5, "no whole numbers: 0.5;"),
        (0.9999999, "no whole numbers: 0.9999999;"),
        (1.0000001, "no whole numbers: 1.0000001;"),
        (np.nan, "no whole numbers: nan;"),
        (1e30, "too large for labels: 1e[+]30"),
    ],
)
@pytest.mark.parametrize("which", ["reference", "prediction"])
def test_a_value_that_is_no_label(value, message, which, tmp_path):
    images = {"reference": label_map(1).astype(np.float32), "prediction": label_map(2).astype(np.float32)}
    images[which][3, 3, 3] = value
    with pytest.raises(ValueError, match=rf"{which}.nii.gz has values that are {message}"):
        measure(tmp_path, **images, reader=NibabelIO)  # ITK reads NaN as 0


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_labels_that_a_slope_makes_whole_are_taken(reader, tmp_path):
    """51 with a slope of 1/51 is 1, as nnU-Net reads it."""
    expected = measure(tmp_path, label_map(1), label_map(2), reader=reader)
    prediction = tmp_path / "prediction.nii.gz"
    stored = nibabel.load(prediction)
    content = bytearray(nibabel.Nifti1Image(np.asarray(stored.dataobj) * 51, stored.affine, stored.header).to_bytes())
    content[112:120] = struct.pack("<ff", 1 / 51, 0)  # slope and intercept
    prediction.write_bytes(gzip.compress(content))
    assert measure(tmp_path, label_map(1), prediction, reader=reader)["metrics"] == expected["metrics"]


def test_a_prediction_has_no_ignore_label(tmp_path):
    prediction = label_map(2)
    prediction[0, 0, 0] = 6
    with pytest.raises(ValueError, match="prediction.nii.gz has values .*: 6$"):
        measure(tmp_path, label_map(1), prediction, REGIONS)


def test_everything_wrong_is_named(tmp_path):
    """A damaged file, a file of several images, and a wrong value beside it."""
    (tmp_path / "prediction.nii.gz").write_bytes(b"\x1f\x8b nothing")
    reference = label_map(1)
    reference[0] = 9
    with pytest.raises(ValueError, match="reference.nii.gz has values .*: 9; .*prediction.nii.gz is damaged"):
        measure(tmp_path, reference, tmp_path / "prediction.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2), np.uint8), np.eye(4)), tmp_path / "prediction.nii.gz")
    with pytest.raises(ValueError, match=r"prediction.nii.gz is not one image of labels, .* \(2, 4, 4, 4\)"):
        measure(tmp_path, label_map(1), tmp_path / "prediction.nii.gz")


@pytest.mark.parametrize("which", ["reference", "prediction"])
@pytest.mark.parametrize(
    ("reader", "ending"),
    [(SimpleITKIO, ".nii.gz"), (SimpleITKIO, ".nii"), (SimpleITKIO, ".mha"), (NibabelIO, ".nii"), (Tiff3DIO, ".tif")],
)
def test_a_file_that_is_cut_short(reader, ending, which, tmp_path):
    """What a full disk or a killed prediction leaves, and ITK fills with zeros."""
    files = {name: tmp_path / f"{name}{ending}" for name in ("reference", "prediction")}
    for seed, file in enumerate(files.values()):
        volume = label_map(seed)
        Tiff3DIO().write_seg(volume, str(file), {"spacing": SPACING}) if reader is Tiff3DIO else write(file, volume)
    files[which].write_bytes(files[which].read_bytes()[: files[which].stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{which}{ending} is damaged"):
        measure_files(*files.values(), reader, read_labels(LABELS, None), MetricOptions())


def test_a_spacing_of_a_format_without_a_check(tmp_path):
    files = [tmp_path / f"{name}.tif" for name in ("reference", "prediction")]
    for file, spacing in zip(files, (SPACING, (0, 1, 1)), strict=True):
        Tiff3DIO().write_seg(label_map(1), str(file), {"spacing": spacing})
    with pytest.raises(ValueError, match="prediction.tif cannot be read: Spacing must be > 0"):
        measure_files(*files, Tiff3DIO, read_labels(LABELS, None), MetricOptions())
    (tmp_path / "prediction.json").write_text('{"spacing": [1, 1, Infinity]}')
    with pytest.raises(ValueError, match=r"prediction.tif has the spacing \(1, 1, inf\)"):
        measure_files(*files, Tiff3DIO, read_labels(LABELS, None), MetricOptions())


# --- labels


def test_names_and_keys():
    labels = read_labels(REGIONS, None)
    assert [(label.name, label.key, label.values) for label in labels.measured] == [
        ("whole", "(1, 2, 5)", (1, 2, 5)),
        ("core", "(2, 5)", (2, 5)),
        ("active", "5", (5,)),
    ]
    assert labels.known == (0, 1, 2, 5) and labels.ignore == 6
    assert [label.name for label in read_labels(LABELS, None).measured] == ["left", "right", "both ends"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"left": 1}, "Background label not declared"),
        ({"background": 0}, "no label besides the background"),
        ({"background": 0, "left": 1, "ignore": 1}, "highest"),
        ({"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order"),
    ],
)
def test_labels_that_nnunet_cannot_use(labels, message):
    with pytest.raises(ValueError, match=message):
        read_labels({"labels": labels}, None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "1": "liver"}, "'labels' must give each name its value: 'liver': 1, not '1': 'liver'"),
        ({"0": "background", "1": "liver"}, "'labels' must give each name its value: 'background': 0"),
        ({"background": 0, "a": 1, "b": 1}, "'a' and 'b' of 'labels' are the same, 1"),
        ({"background": 0, "a": 1, "b": [1]}, r"'a' and 'b' of 'labels' are the same, \[1\]"),
        ({"background": 0, "a": [1, 2], "b": [2, 1]}, r"'a' and 'b' of 'labels' are the same, \[2, 1\]"),
        ({"background": 0, "air": 0, "a": 1}, "'background' and 'air' of 'labels' are the same, 0"),
        ({"background": 0, "a": [1, 1]}, r"the region 'a' of 'labels' must have different values, not \[1, 1\]"),
        ({"background": 0, "a": []}, "the region 'a' of 'labels' must have different values"),
        ({"background": 0, "a": -1}, "the value of 'a' in 'labels' must be a whole number from 0 .*, not -1"),
        ({"background": 0, "a": 1.5}, "the value of 'a' .* not 1.5"),
        ({"background": 0, "a": float("nan")}, "the value of 'a' .* not nan"),
        ({"background": 0, "a": True}, "the value of 'a' .* not True"),
        ({"background": 0, "a": None}, "the value of 'a' .* not None"),
        ({"background": 0, "a": "liver"}, "the value of 'a' .* not 'liver'"),
        ({"background": 0, "a": {"b": 1}}, "the value of 'a' .* not {'b': 1}"),
        ({"background": 0, "a": [[1], 2]}, r"the value of 'a' .* not \[1\]"),
        ({"background": 0, "a": 10**12}, "the value of 'a' .* not 1000000000000"),
        ({"background": 0, "a": 1, "ignore": [2]}, "Ignore label has to be an integer"),
        (["background", "a"], r"'labels' must give each name its value, .* it is \['background', 'a'\]"),
        (None, "'labels' must give each name its value, .* it is None"),
    ],
)
def test_labels_that_are_mistakes(labels, message):
    with pytest.raises(ValueError, match=message) as error:
        read_labels({"labels": labels}, None, Path("some/dataset.json"))
    assert "some/dataset.json" in str(error.value)


@pytest.mark.parametrize("order", ["123", {"whole": 1}, [1, "2", 5], [1.5, 2, 5], [True, 2, 5], 7])
def test_an_order_that_is_a_mistake(order):
    with pytest.raises(ValueError, match="'regions_class_order' must be a list of values"):
        read_labels({**REGIONS, "regions_class_order": order}, None)


def test_values_that_nnunet_takes_as_whole_numbers():
    labels = read_labels({"labels": {"background": 0.0, "left": "1", "right": 2.0, "both": [3]}}, None)
    assert labels.known == (0, 1, 2, 3)
    assert [(label.name, label.values) for label in labels.measured] == [
        ("left", (1,)),
        ("right", (2,)),
        ("both", (3,)),
    ]


def test_an_order_that_contradicts_the_regions():
    assert read_labels(REGIONS, None).contradictions == ()
    (first, *_) = read_labels({**REGIONS, "regions_class_order": [5, 2, 1]}, None).contradictions
    assert first.startswith("regions_class_order [5, 2, 1] contradicts the regions") and "[1, 2, 5] would be" in first
