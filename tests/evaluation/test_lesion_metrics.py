"""Lesions one by one: worked examples, BraTS's and ISLES's rules written out lesion by lesion, empty cases."""

import itertools

import numpy as np
import pytest
from masks import blobs, box
from scipy.ndimage import binary_dilation, generate_binary_structure, label

from nnunetv2_mamba.evaluation.case_measurement import measure_label_maps
from nnunetv2_mamba.evaluation.label_map import Geometry, LabelMap
from nnunetv2_mamba.evaluation.lesions import Lesions
from nnunetv2_mamba.evaluation.mask_pair import MaskPair
from nnunetv2_mamba.evaluation.measured_labels import read_labels
from nnunetv2_mamba.evaluation.metric_options import LESIONS, LesionRule, MetricOptions
from nnunetv2_mamba.evaluation.metrics import METRICS, measure_masks

NAMES = [name for name, metric in METRICS.items() if metric.group == LESIONS]
CUBE = generate_binary_structure(3, 3)


def measure(reference, prediction, spacing=(1.0, 1.0, 1.0), **rule):
    rule = LesionRule(**rule)
    pair = MaskPair(reference, prediction, spacing[-reference.ndim :], 100.0, lesion_rule=rule)
    values = measure_masks(pair, MetricOptions(groups=(LESIONS,), lesions=rule))
    return {name.removeprefix("lesion_"): values[name] for name in NAMES}


def cubes(*corners, side=4, shape=(12, 40, 40)):
    """Cubes far enough from each other, by their first corners."""
    mask = np.zeros(shape, dtype=bool)
    for corner in corners:
        mask |= box(shape, corner, [start + side for start in corner])
    return mask


# --- by hand


def test_lesions_found_missed_small_and_invented():
    """Four lesions: A is found one voxel beside, B missed; C (missed) and D (found) have 27 mm3 and do not count.

    A: 48 of 64 voxels overlap, Dice 96 / 128; 16 of the 56 surface voxels are 1 mm off, so HD95 is 1 mm. One component
    is invented. F1 counts C and D too: A (IoU 48 / 80) and D are matched, of 4 and 3 lesions.
    """
    small = cubes((4, 4, 20), (4, 30, 30), side=3)
    reference = cubes((4, 4, 4), (4, 20, 4)) | small
    prediction = cubes((5, 4, 4)) | cubes((4, 30, 30), side=3) | box(reference.shape, (4, 20, 20), (5, 21, 21))
    assert measure(reference, prediction) == pytest.approx(
        {
            "dice": (0.75 + 0 + 0) / 3,
            "hd95": (1 + 374 + 374) / 3,
            "f1": 2 * 2 / (4 + 3),
            "count_difference": 1,
        }
    )
    assert measure(reference, prediction, smallest=26.9, penalty=10) == pytest.approx(
        {
            "dice": (0.75 + 0 + 0 + 1 + 0) / 5,
            "hd95": (1 + 10 + 10 + 0 + 10) / 5,
            "f1": 4 / 7,
            "count_difference": 1,
        }
    )


def test_a_component_of_two_lesions_counts_for_both():
    """A bar of 20 x 4 x 4 voxels through two cubes of 4 voxels, 8 apart, and no further component: nothing invented."""
    reference = cubes((4, 4, 4), (4, 16, 4))
    prediction = box(reference.shape, (4, 2, 4), (8, 22, 8))
    measured = measure(reference, prediction)
    assert measured["dice"] == pytest.approx(2 * 64 / (64 + 320))
    assert measured["hd95"] == pytest.approx(14) == 22 - 8  # the far end, its voxels are more than 5 %
    assert measured["f1"] == 0 and measured["count_difference"] == 1  # an IoU of 0.2


def test_what_lies_in_the_dilated_lesion_belongs_to_it():
    """Four voxels beside a lesion: an overlap of none, yet neither missed nor invented while it is dilated so far."""
    reference, prediction = cubes((4, 4, 4)), box((12, 40, 40), (4, 10, 4), (8, 11, 8))
    assert measure(reference, prediction, dilation=3)["dice"] == 0
    assert measure(reference, prediction, dilation=3)["hd95"] == 6  # from the far face of the lesion
    assert measure(reference, prediction, dilation=2)["hd95"] == 374


@pytest.mark.parametrize(
    ("offset", "dilation", "n_lesions"),
    [
        ((0, 0, 7), 3, 1), ((0, 0, 8), 3, 2), ((0, 7, 7), 3, 1), ((0, 8, 8), 3, 2),
        ((5, 5, 5), 3, 1), ((6, 6, 6), 3, 2), ((0, 0, 3), 1, 1), ((0, 0, 4), 1, 2), ((2, 2, 2), 1, 1),
        ((3, 3, 3), 1, 2),
        ((1, 1, 1), 0, 1), ((0, 0, 2), 0, 2),
    ],
)  # fmt: skip
def test_lesions_that_touch_when_dilated_are_one(offset, dilation, n_lesions):
    """Two voxels, dilated by the 18 neighbours with a common face or edge: less along the diagonal than a cube."""
    mask = np.zeros((20, 20, 20), dtype=bool)
    mask[5, 5, 5] = mask[tuple(5 + step for step in offset)] = True
    lesions = Lesions(mask, ~mask, LesionRule(dilation=dilation))
    assert [lesion.n_reference for lesion in lesions.merged] == [2] if n_lesions == 1 else [1, 1]
    assert len(lesions.merged) == n_lesions


@pytest.mark.parametrize(("connectivity", "counts"), [(6, (1, 2, 2)), (18, (1, 1, 2)), (26, (1, 1, 1))])
def test_connectivity(connectivity, counts):
    """Two voxels with a common face, edge or corner; in a plane a face or a corner."""
    rule = LesionRule(connectivity=connectivity)
    for offset, count in zip(((0, 0, 1), (0, 1, 1), (1, 1, 1)), counts, strict=True):
        mask = np.zeros((4, 4, 4), dtype=bool)
        mask[1, 1, 1] = mask[tuple(1 + step for step in offset)] = True
        assert Lesions(mask, mask, rule).n_reference == count
        if not offset[0]:
            assert Lesions(mask[1], mask[1], rule).n_prediction == count


def test_f1_takes_the_largest_iou_first():
    """As in ISLES, not the assignment with the most pairs.

    The first component of the prediction shares 3 of 10 voxels with the first lesion (IoU 0.3), the second 6 (6 / 13)
    and 2 with the second lesion (2 / 9).
    """
    reference, prediction = np.zeros(20, dtype=bool), np.zeros(20, dtype=bool)
    reference[:10] = reference[11:13] = True
    prediction[:3] = prediction[4:13] = True
    assert measure(reference, prediction, iou=0.2)["f1"] == 2 * 1 / 4
    prediction[4:10] = False
    assert measure(reference, prediction, iou=0.2)["f1"] == 2 * 2 / 4


def test_f1_leaves_a_component_to_another_lesion():
    """The second lesion has its match (IoU 0.6), so the first component (3 / 13) is there for the first one (1 / 7)."""
    reference, prediction = np.zeros(20, dtype=bool), np.zeros(20, dtype=bool)
    reference[:2] = reference[4:14] = True
    prediction[1:7] = prediction[8:14] = True
    assert measure(reference, prediction, iou=0.1)["f1"] == 1
    assert measure(reference, prediction, iou=0.2)["f1"] == 0.5


@pytest.mark.parametrize(("length", "f1"), [(4, 1), (3, 0)])
def test_f1_needs_the_least_iou(length, f1):
    """4 of 16 voxels are an IoU of 0.25, which is enough."""
    reference, prediction = np.ones(16, dtype=bool), np.zeros(16, dtype=bool)
    prediction[:length] = True
    assert measure(reference, prediction)["f1"] == f1


def test_volumes_and_distances_are_in_millimetres():
    """10 voxels of 5 mm3 are 50, which is not more than 50, also as a file rounds it; 11 are."""
    for n, counted in ((10, False), (11, True)):
        reference = box((4, 4, 20), (1, 1, 1), (2, 2, 1 + n))
        prediction = np.roll(reference, 1, axis=0)
        found = measure(reference, prediction, (float(np.nextafter(np.float32(5), np.float32(6))), 1.0, 1.0))
        assert found["dice"] == 0 if counted else np.isnan(found["dice"])
        assert found["hd95"] == pytest.approx(5) if counted else np.isnan(found["hd95"])


# --- empty cases


def test_nothing_to_be_found():
    empty, lesions = np.zeros((12, 40, 40), dtype=bool), cubes((4, 4, 4), (4, 20, 20))
    assert np.isnan([*measure(empty, empty).values()]).all()
    for pair in ((lesions, empty), (empty, lesions)):
        assert measure(*pair) == {"dice": 0, "hd95": 374, "f1": 0, "count_difference": 2}


def test_small_lesions_only():
    """Missed or found, they say nothing of BraTS's two; ISLES's count them. What is found is not invented."""
    small, empty = cubes((4, 4, 4), side=3), np.zeros((12, 40, 40), dtype=bool)
    missed, found, invented = measure(small, empty), measure(small, small), measure(small, np.roll(small, 20, axis=1))
    for values in (missed, found):
        assert np.isnan(values["dice"]) and np.isnan(values["hd95"])
    assert (missed["f1"], missed["count_difference"], found["f1"], found["count_difference"]) == (0, 1, 1, 0)
    assert invented == {"dice": 0, "hd95": 374, "f1": 0, "count_difference": 0}


# --- by definition


def by_definition(reference, prediction, dilation, smallest, iou):
    """BraTS 2023 and ISLES 2026, an image for each lesion."""
    near = generate_binary_structure(3, 2)
    grown = binary_dilation(reference, near, iterations=dilation) if dilation else reference
    regions, n_regions = label(grown, CUBE)
    components, n_components = label(prediction, CUBE)
    dice, used = [], set()
    for number in range(1, n_regions + 1):
        lesion = reference & (regions == number)
        own = binary_dilation(lesion, near, iterations=dilation) if dilation else lesion
        touched = {*np.unique(components[own]).tolist()} - {0}
        used |= touched
        found = np.isin(components, [*touched])
        if lesion.sum() > smallest:
            dice.append(2 * (lesion & found).sum() / (lesion.sum() + found.sum()) if touched else 0.0)
    dice += [0.0] * (n_components - len(used))

    lesions, n_lesions = label(reference, CUBE)
    masks = [
        [numbers == i for i in range(1, n + 1)] for numbers, n in ((lesions, n_lesions), (components, n_components))
    ]
    ious = {
        (a, b): (masks[0][a] & masks[1][b]).sum() / (masks[0][a] | masks[1][b]).sum()
        for a, b in itertools.product(range(n_lesions), range(n_components))
    }
    pairs = 0
    while ious and max(ious.values()) >= iou:
        first = max(ious, key=ious.get)
        pairs += 1
        ious = {pair: value for pair, value in ious.items() if pair[0] != first[0] and pair[1] != first[1]}
    return {
        "dice": np.mean(dice) if dice else np.nan,
        "f1": 2 * pairs / (n_lesions + n_components),
        "count_difference": abs(n_lesions - n_components),
    }


def scattered(seed, shape=(20, 22, 24)):
    """Ragged lesions of many sizes, some found, some not, and others."""
    reference = blobs(shape, seed, 0.04)
    return reference, np.roll(reference, 1 + seed % 3, axis=seed % 3) ^ blobs(shape, seed + 50, 0.02)


@pytest.mark.parametrize("dilation", [0, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_definitions_lesion_by_lesion(seed, dilation):
    reference, prediction = scattered(seed)
    measured = measure(reference, prediction, dilation=dilation, smallest=3, iou=0.2)
    expected = by_definition(reference, prediction, dilation, 3, 0.2)
    assert 0 < expected["dice"] < 1 and 0 < expected["f1"] < 1
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("dilation", [0, 1, 3, 6])
def test_cropping_changes_nothing_of_lesions(dilation, connectivity):
    """What is dilated beyond the box around both masks touches nothing there that it does not touch inside."""
    for seed in range(3):
        reference, prediction = scattered(seed, (9, 10, 11))
        voxels = np.argwhere(reference | prediction)
        crop = tuple(slice(a, b + 1) for a, b in zip(voxels.min(0), voxels.max(0), strict=True))
        rule = {"dilation": dilation, "connectivity": connectivity, "smallest": 2}
        whole = measure(np.pad(reference, 8), np.pad(prediction, 8), (0.5, 0.8, 2.0), **rule)
        assert measure(reference[crop], prediction[crop], (0.5, 0.8, 2.0), **rule) == whole


# --- properties


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.8, 2.0)])
def test_a_perfect_prediction(spacing):
    reference, _ = scattered(1)
    assert measure(reference, reference, spacing, smallest=0) == {"dice": 1, "hd95": 0, "f1": 1, "count_difference": 0}


def test_f1_and_the_count_do_not_ask_which_is_the_reference():
    reference, prediction = scattered(2)
    there, back = measure(reference, prediction), measure(prediction, reference)
    assert [there[name] for name in ("f1", "count_difference")] == [back[name] for name in ("f1", "count_difference")]
    assert there["dice"] != back["dice"]


def test_axes_may_change_places():
    reference, prediction = scattered(3)
    spacing = (0.5, 0.8, 2.0)
    expected = measure(reference, prediction, spacing, smallest=2)
    for axes in ((1, 2, 0), (2, 1, 0)):
        moved = [np.flip(mask.transpose(axes), 1) for mask in (reference, prediction)]
        assert measure(*moved, tuple(spacing[axis] for axis in axes), smallest=2) == pytest.approx(expected, rel=1e-6)


def test_labels_may_change_places():
    """Of a label map too: each label has the values of its lesions, whatever number it has."""
    shape = (20, 22, 24)
    options = MetricOptions(groups=(LESIONS,), lesions=LesionRule(smallest=2))
    (first, _), (_, second) = scattered(4), scattered(5)
    maps = [np.select([mask, np.roll(mask, 9, axis=0)], [1, 2]) for mask in (first, second)]
    swapped = [np.array([0, 2, 1])[array] for array in maps]
    results = []
    for arrays, values in ((maps, (1, 2)), (swapped, (2, 1))):
        labels = read_labels({"labels": {"background": 0, **dict(zip(("old", "new"), values, strict=True))}}, None)
        images = [LabelMap(array.astype(np.uint8) + 1, Geometry(shape, (1.0, 2.0, 1.0))) for array in arrays]
        found = measure_label_maps(*images, labels, options)
        results.append({label.name: found[label.key] for label in labels.measured})
    assert results[0] == results[1] and results[0]["old"] != results[0]["new"]


def test_a_label_is_measured_by_the_rule_of_the_options():
    reference, prediction = scattered(6)
    rule = {"dilation": 0, "connectivity": 6, "smallest": 3.0, "iou": 0.1}
    images = [LabelMap(mask + np.uint8(1), Geometry(mask.shape, (1.0, 2.0, 1.0))) for mask in (reference, prediction)]
    options = MetricOptions(groups=(LESIONS,), lesions=LesionRule(**rule))
    found = measure_label_maps(*images, read_labels({"labels": {"background": 0, "lesion": 1}}, None), options)["1"]
    measured = {name: found[name] for name in NAMES}
    assert [*measured.values()] == pytest.approx([*measure(reference, prediction, (1.0, 2.0, 1.0), **rule).values()])
    assert [*measured.values()] != pytest.approx([*measure(reference, prediction, (1.0, 2.0, 1.0)).values()])


def test_lesions_of_up_to_50_mm3_are_left_out_unless_something_else_is_asked_for():
    """And a missed one is 374 mm away: BraTS 2023, gliomas."""
    for n_voxels, distance in ((50, np.nan), (51, 374.0)):
        line = box((3, 3, 60), (1, 1, 1), (2, 2, 1 + n_voxels))
        assert measure(line, np.zeros_like(line))["hd95"] == pytest.approx(distance, nan_ok=True)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"dilation": -1}, "dilated 0 to 100 times, not -1"),
        ({"dilation": 101}, "dilated 0 to 100 times, not 101"),
        ({"connectivity": 8}, "6, 18 or 26, not 8"),
        ({"smallest": -1.0}, "mm3 from 0 on, got -1.0"),
        ({"smallest": np.nan}, "mm3 from 0 on, got nan"),
        ({"penalty": np.inf}, "millimetres from 0 on, got inf"),
        ({"iou": 0.0}, "above 0 and at most 1, got 0.0"),
        ({"iou": 1.1}, "above 0 and at most 1, got 1.1"),
    ],
)
def test_no_such_rule(rule, message):
    with pytest.raises(ValueError, match=message):
        LesionRule(**rule)
