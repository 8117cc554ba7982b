"""Small components removed as a rule says, and the rules in files."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from masks import blobs
from nnunetv2.postprocessing.remove_connected_components import remove_all_but_largest_component_from_segmentation
from scipy.ndimage import label

from nnunetv2_mamba.evaluation.component_filter import filtered
from nnunetv2_mamba.evaluation.component_rules import ComponentFilter, ComponentRule

LABELS = {"left": (1,), "right": (2,)}
REGIONS = {"whole": (1, 2, 3), "core": (2, 3), "inner": (3,)}


def by(rules, array, values=LABELS, voxel_mm3=1.0):
    return filtered(np.asarray(array, np.uint8), ComponentFilter(rules), values, voxel_mm3)


@pytest.mark.parametrize(
    ("rule", "kept", "n_removed"),
    [
        (ComponentRule(), [1, 1, 1, 0, 1, 1, 0, 1, 0, 1], 0),
        (ComponentRule(smallest_mm3=3), [1, 1, 1, 0, 1, 1, 0, 0, 0, 0], 2),  # two voxels of 1.5 mm3 are enough
        (ComponentRule(smallest_mm3=3.01), [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 3),
        (ComponentRule(smallest_mm3=5), [0] * 10, 4),
        (ComponentRule(largest=1), [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 3),
        (ComponentRule(largest=3), [1, 1, 1, 0, 1, 1, 0, 1, 0, 0], 1),  # the first of two of one voxel
        (ComponentRule(smallest_mm3=3, largest=1), [1, 1, 1, 0, 0, 0, 0, 0, 0, 0], 3),
        (ComponentRule(smallest_mm3=3, largest=9), [1, 1, 1, 0, 1, 1, 0, 0, 0, 0], 2),
    ],
    ids=str,
)
def test_a_rule(rule, kept, n_removed):
    row = np.array([1, 1, 1, 0, 1, 1, 0, 1, 0, 1], np.uint8)
    array = np.stack((row, 2 * row), axis=1)[None]  # the other label stays, though it touches
    result, removed = by({"left": rule}, array, voxel_mm3=1.5)
    assert result[0, :, 0].tolist() == kept and removed == {"left": n_removed}
    assert result[0, :, 1].tolist() == (2 * row).tolist()
    assert array[0, :, 0].tolist() == row.tolist()


def test_voxels_that_touch_by_a_corner_are_one_component():
    array = np.zeros((4, 4, 4), np.uint8)
    array[0, 0, 0] = array[1, 1, 1] = array[3, 3, 3] = 1
    result, removed = by({"left": ComponentRule(largest=1)}, array)
    assert np.argwhere(result).tolist() == [[0, 0, 0], [1, 1, 1]] and removed == {"left": 1}


def test_what_leaves_a_region_leaves_all_and_later_rules_see_it():
    """The core's small part is background afterwards, so that the whole falls apart."""
    array = np.array([[[1, 1, 1, 2, 1, 0, 3, 3]]])
    result, removed = by({"core": ComponentRule(2)}, array, REGIONS)
    assert result.tolist() == [[[1, 1, 1, 0, 1, 0, 3, 3]]] and removed == {"core": 1}
    result, removed = by({"core": ComponentRule(2), "whole": ComponentRule(5)}, array, REGIONS)
    assert result.tolist() == [[[1, 1, 1, 0, 1, 0, 0, 0]]] and removed == {"whole": 1, "core": 1}


@pytest.mark.parametrize("values", [LABELS, REGIONS])
def test_the_largest_is_what_nnunet_keeps(values):
    for seed in range(5):
        array = sum(blobs((12, 13, 14), seed + value).astype(np.uint8) for value in range(3))
        theirs = array
        for own in values.values():
            theirs = remove_all_but_largest_component_from_segmentation(theirs, own)
        ours, removed = by(dict.fromkeys(values, ComponentRule(largest=1)), array, values)
        np.testing.assert_array_equal(ours, theirs)
        first = next(iter(values))
        assert removed[first] == label(np.isin(array, values[first]), np.ones((3, 3, 3)))[1] - 1


def test_labels_that_are_absent_and_filters_without_rules():
    empty = np.zeros((2, 2, 2), np.uint8)
    assert by({"left": ComponentRule(5, 1)}, empty)[1] == {"left": 0}
    array, removed = filtered(empty, ComponentFilter(), LABELS, 1.0)
    assert array is empty and removed == {}
    with pytest.raises(ValueError, match="has a rule for 'liver'; the labels are left, right"):
        by({"liver": ComponentRule(5)}, empty)


def test_a_file_gives_back_the_filter(tmp_path):
    chosen = ComponentFilter({"left": ComponentRule(30.5), "right": ComponentRule(0, 2)})
    file = tmp_path / "filter.json"
    file.write_text(json.dumps({**asdict(chosen), "report": {"left": {}}}))
    assert ComponentFilter.read(file) == chosen
    assert [str(rule) for rule in chosen.rules.values()] == ["keep at least 30.5 mm3", "keep the 2 largest"]
    assert str(ComponentRule(1, 1)) == "keep at least 1 mm3 and the largest" and str(ComponentRule()) == "keep all"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is no filter of nnunetv2_mamba choose-filter: KeyError"),
        ({"rules": [1]}, "it is no filter"),
        ({"rules": {"left": {"smallest": 1}}}, "it is no filter"),
        ({"rules": {"left": {"smallest_mm3": -1}}}, "smallest_mm3 must be mm3 from 0 on, got -1"),
        ({"rules": {"left": {"smallest_mm3": True}}}, "smallest_mm3 must be"),
        ({"rules": {"left": {"smallest_mm3": 10**400}}}, "smallest_mm3 must be mm3 from 0 on, got 10{99}\\.\\.\\."),
        ({"rules": {"left": {"smallest_mm3": "1"}}}, "smallest_mm3 must be"),
        ({"rules": {"left": {"largest": 0}}}, "largest must be a number of components from 1 on, or null, got 0"),
        ({"rules": {"left": {"largest": 1.5}}}, "largest must be"),
        ([], "no JSON object"),
    ],
)
def test_files_that_are_no_filters_are_named(tmp_path, content, message):
    file = tmp_path / "filter.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as error:
        ComponentFilter.read(file)
    assert str(file) in str(error.value)
