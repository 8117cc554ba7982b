"""PR-AUC and calibration: by hand, by definition, against MONAI; and a stranger's file of probabilities."""

import io
import zipfile

import numpy as np
import pytest
import torch

from nnunetv2_mamba.evaluation.case_measurement import measure_label_maps
from nnunetv2_mamba.evaluation.label_map import Geometry, LabelMap
from nnunetv2_mamba.evaluation.mask_pair import MaskPair
from nnunetv2_mamba.evaluation.measured_labels import read_labels
from nnunetv2_mamba.evaluation.metric_options import PROBABILITIES, MetricOptions
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.probabilities import LabelProbability, read_probabilities

LABELS = read_labels({"labels": {"background": 0, "left": 1, "right": 2}}, None)
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
OPTIONS = MetricOptions(groups=(PROBABILITIES,))


def measure(name, values, member):
    values, member = np.asarray(values), np.asarray(member, dtype=bool)
    pair = MaskPair(member, values > 0.5, (1.0,), 10.0, probability=LabelProbability(values, member))
    return METRICS[name].value(pair, OPTIONS)


# --- by hand


def test_average_precision():
    """In falling order 1, 0, 1, 0: precision 1 at recall 1 / 2, then 2 / 3 at recall 1."""
    assert measure("pr_auc", [0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert measure("pr_auc", [0.1, 0.3, 0.35, 0.8], [0, 0, 1, 1]) == 1
    assert measure("pr_auc", [0.0, 0.0, 0.0, 0.0], [0, 0, 0, 1]) == 0.25  # chance: nothing is told apart


def test_average_precision_asks_for_the_order_only():
    values, member = np.random.default_rng(0).random(500), np.random.default_rng(1).random(500) < 0.1
    assert measure("pr_auc", values, member) == pytest.approx(measure("pr_auc", values**3 / 2, member))


def test_expected_calibration_error():
    """Two bins: of 0.2 and 0.2, none is the label; of 0.9 and 1.0, one: |0.2 - 0| / 2 + |0.95 - 0.5| / 2."""
    assert measure("ece", [0.2, 0.2, 0.95, 0.95], [0, 0, 1, 0]) == pytest.approx(0.2 / 2 + 0.45 / 2)
    assert measure("ece", [0.5] * 4, [0, 1, 0, 1]) == 0
    assert measure("ece", [1.0, 1.0, 0.0], [1, 1, 0]) == 0
    assert measure("ece", [0.0, 0.0, 1.0], [1, 1, 0]) == 1


def test_bins_are_closed_above():
    """The upper bound of the eighth of 15 bins belongs to it, with 0.5, and not to the next."""
    bound = np.linspace(0, 1, 16)[8]
    assert measure("ece", [0.5, bound], [1, 0]) == pytest.approx(abs(0.5 + bound - 1) / 2)
    assert measure("ece", [0.5, np.nextafter(bound, 1)], [1, 0]) == pytest.approx(0.5 / 2 + bound / 2)


# --- by definition


def test_the_sums_of_their_definitions():
    rng = np.random.default_rng(2)
    values = rng.random(300).round(2).astype(np.float32)  # with ties
    member = rng.random(300) < values**2
    exact = values.astype(np.float64)
    recall, area = 0.0, 0.0
    for threshold in np.unique(exact)[::-1]:
        chosen = exact >= threshold
        now = member[chosen].sum() / member.sum()
        area += (now - recall) * member[chosen].mean()
        recall = now
    assert measure("pr_auc", values, member) == pytest.approx(area, rel=1e-12)
    error = 0.0
    for number in range(15):
        inside = (exact > number / 15) & (exact <= (number + 1) / 15)
        if number == 0:
            inside |= exact == 0
        if inside.any():
            error += inside.mean() * abs(exact[inside].mean() - member[inside].mean())
    assert measure("ece", values, member) == pytest.approx(error, rel=1e-12) and 0.1 < error < 0.3


def test_calibration_as_in_monai():
    calibration = pytest.importorskip("monai.metrics.calibration", reason="MONAI has it from 1.6 on")
    rng = np.random.default_rng(3)
    values = rng.random(2000).astype(np.float32)
    member = rng.random(2000) < 0.3
    inputs = [torch.from_numpy(array)[None, None] for array in (values, member)]
    means, shares, counts = (array[0, 0] for array in calibration.calibration_binning(*inputs, num_bins=15))
    expected = ((means - shares).abs() * counts).nansum() / counts.sum()
    assert measure("ece", values, member) == pytest.approx(expected.item(), rel=1e-5)


# --- of label maps


def softmax(shape, seed, heads=3):
    values = np.random.default_rng(seed).random((heads, *shape)).astype(np.float32)
    return values / values.sum(0)


def test_each_label_has_its_head_and_ignored_voxels_do_not_count():
    shape = (6, 7, 8)
    rng = np.random.default_rng(4)
    for labels, values, heads in ((LABELS, (0, 1, 2), (1, 2)), (read_labels(REGIONS, None), (0, 1, 2, 3), (0, 1))):
        reference = rng.choice(values, shape)
        prediction = rng.choice(values[:3], shape)
        probabilities = softmax(shape, 5, labels.n_heads)
        counted = reference != 3
        images = [
            LabelMap(np.where(array == 3, 0, array + 1).astype(np.uint8), Geometry(shape, (1.0, 1.0, 1.0)))
            for array in (reference, prediction)
        ]
        found = measure_label_maps(*images, labels, OPTIONS, probabilities)
        for label, head in zip(labels.measured, heads, strict=True):
            expected = (probabilities[head][counted], np.isin(reference, label.values)[counted])
            for name in ("pr_auc", "ece"):
                assert found[label.key][name] == measure(name, *expected)


def test_labels_in_one_image_or_none():
    """A prediction that is empty is measured by its probabilities; recall has no meaning where nothing is."""
    shape = (4, 4, 4)
    empty, full = (LabelMap(np.full(shape, i, np.uint8), Geometry(shape, (1.0, 1.0, 1.0))) for i in (1, 2))
    probabilities = softmax(shape, 6)
    missed = measure_label_maps(full, empty, LABELS, OPTIONS, probabilities)
    assert missed["1"]["pr_auc"] == 1  # all voxels are the label
    assert missed["1"]["ece"] == pytest.approx(1 - probabilities[1].mean(dtype=float))
    assert np.isnan([missed["2"][name] for name in ("pr_auc", "ece")]).all()
    invented = measure_label_maps(empty, full, LABELS, OPTIONS, probabilities)["1"]
    assert np.isnan(invented["pr_auc"]) and invented["ece"] == pytest.approx(probabilities[1].mean(dtype=float))


# --- files


def test_what_was_written_is_read_as_it_was(tmp_path):
    for dtype in (np.float32, np.float16, np.float64):
        for order in (np.ascontiguousarray, np.asfortranarray):
            array = order(softmax((4, 5, 6), 7).astype(dtype))
            for write in (np.savez, np.savez_compressed):
                write(tmp_path / "a.npz", probabilities=array)
                np.testing.assert_array_equal(read_probabilities(tmp_path / "a.npz", (3, 4, 5, 6)), array)


def header(shape, dtype="<f4"):
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"shape": shape, "fortran_order": False, "descr": dtype})
    return stream.getvalue()


SHAPE = (3, 4, 5, 6)
ARRAY = softmax(SHAPE[1:], 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", "is damaged, or no file of probabilities"),
        ({"softmax.npy": header(SHAPE) + ARRAY.tobytes()}, "'probabilities.npy'"),
        ({"probabilities.npy": b"nothing"}, "is damaged, or no file of probabilities"),
        ({"probabilities.npy": header(SHAPE).replace(b"}", b" ")}, "is damaged, or no file of probabilities"),
        (
            {"probabilities.npy": header(SHAPE).replace(b"'descr'", b"(1,2,3)")},
            "is damaged, or no file of probabilities",
        ),
        ({"probabilities.npy": header(SHAPE) + ARRAY.tobytes()[:-1]}, "is damaged, or no file of probabilities"),
        ({"probabilities.npy": header(SHAPE, "|O") + b"cos\nsystem\n"}, "of type dtype.'O'., no probabilities"),
        ({"probabilities.npy": header((3, 6, 5, 4))}, r"shape \(3, 6, 5, 4\), where the labels .* \(3, 4, 5, 6\)"),
        ({"probabilities.npy": header((1 << 40, 1 << 20))}, r"shape \(1099511627776, 1048576\)"),
        ({"probabilities.npy": header(SHAPE, "<i4") + ARRAY.tobytes()}, "of type .*int32.*, no probabilities"),
        ({"probabilities.npy": header(SHAPE) + (ARRAY + 1).tobytes()}, "no probabilities from 0 to 1"),
        ({"probabilities.npy": header(SHAPE) + (-ARRAY).tobytes()}, "no probabilities from 0 to 1"),
        ({"probabilities.npy": header(SHAPE) + (ARRAY * np.nan).tobytes()}, "no probabilities from 0 to 1"),
    ],
)
def test_files_that_are_refused(content, message, tmp_path):
    """In one line with the file's name; what it claims to hold is neither run nor allocated."""
    file = tmp_path / "a.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        with zipfile.ZipFile(file, "w") as archive:
            for name, text in content.items():
                archive.writestr(name, text)
    with pytest.raises(ValueError, match=message) as error:
        read_probabilities(file, SHAPE)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_found(tmp_path, compression):
    """A byte that was changed: the archive has sums of its contents."""
    file = tmp_path / "a.npz"
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("probabilities.npy", header(SHAPE) + np.random.default_rng(0).bytes(ARRAY.nbytes))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="a.npz is damaged"):
        read_probabilities(file, SHAPE)
