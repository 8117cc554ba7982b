"""Regions and the order in which nnU-Net writes them, against nnU-Net's own writing."""

import itertools

import numpy as np
import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_mamba.regions import contradictions, values_of

NESTED = {"background": 0, "whole": [1, 2, 3], "core": [1, 2], "enhancing": 1}
BRATS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}
APART = {"background": 0, "organ": [1, 2], "vessel": 3}
OVERLAPPING = {"background": 0, "left": [1, 2], "right": [2, 3], "ignore": 4}
WITH_OVERLAP = {"background": 0, "left": [1, 2], "right": [2, 3], "both": [2]}
SMALLEST_FIRST = {"background": 0, "enhancing": 1, "core": [1, 2], "whole": [1, 2, 3]}
WITHOUT_AN_ORDER = "list a region that contains another one before it, and overlapping ones with their overlap last"


def is_given_back(labels, order):
    """Whether a perfect network's output, written by nnU-Net, holds every region where it was."""
    manager = LabelManager(labels, list(order))
    reference = np.array([[manager.all_labels]])
    regions = manager.foreground_regions
    perfect = np.stack([np.isin(reference, region) for region in regions]).astype(np.float32)
    written = manager.convert_probabilities_to_segmentation(perfect)
    return all((np.isin(written, region) == np.isin(reference, region)).all() for region in regions)


@pytest.mark.parametrize(
    ("labels", "possible"),
    [
        (NESTED, {False, True}),
        (BRATS, {False, True}),
        (APART, {False, True}),
        (WITH_OVERLAP, {False, True}),
        (OVERLAPPING, {False}),
        (SMALLEST_FIRST, {False}),
    ],
)
def test_an_order_contradicts_where_nnunet_does_not_give_a_region_back(labels, possible):
    count = len(LabelManager(labels, [1] * sum(name not in ("background", "ignore") for name in labels)).all_regions)
    found = set()
    for order in itertools.product(range(5), repeat=count):
        right = is_given_back(labels, order)
        found.add(right)
        assert (contradictions(labels, order) == []) == right, order
    assert found == possible


@pytest.mark.parametrize("labels", (NESTED, BRATS, APART, WITH_OVERLAP))
def test_the_order_that_is_proposed_is_right(labels):
    count = sum(name != "background" for name in labels)
    sentence = contradictions(labels, [4] * count)[0]
    proposed = sentence.rpartition("; [")[2].partition("]")[0]
    assert is_given_back(labels, [int(value) for value in proposed.split(",")])


def test_a_sentence_names_regions_and_values():
    assert contradictions(NESTED, [1, 2, 3]) == [
        "regions_class_order [1, 2, 3] contradicts the regions: nnU-Net writes voxels of whole, core and enhancing "
        "(value 1) as 3, which is whole; [3, 2, 1] would be right",
        "regions_class_order [1, 2, 3] contradicts the regions: nnU-Net writes voxels of whole (value 3) as 1, which "
        "is whole, core and enhancing; [3, 2, 1] would be right",
    ]
    assert contradictions(SMALLEST_FIRST, [1, 2, 3])[0].endswith(WITHOUT_AN_ORDER)


@pytest.mark.parametrize("order", ([3, 2, 1], None, []))
def test_labels_that_are_no_regions_have_no_order(order):
    assert contradictions({"background": 0, "a": 1, "b": [2]}, order) == []


@pytest.mark.parametrize(("given", "values"), [(3, (3,)), ("3", (3,)), ([1, "2"], (1, 2)), ((4,), (4,))])
def test_values_of_labels_and_regions(given, values):
    assert values_of(given) == values
