"""Boxes around a region."""

import numpy as np
import pytest

from nnunetv2_mamba.freesurfer.roi import box_of_size, box_with_margin, largest_parts


def region(shape, *ranges):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*limits) for limits in ranges)] = True
    return mask


def limits(box):
    return [(side.start, side.stop) for side in box]


def test_the_region_is_in_the_middle_with_the_odd_voxel_behind():
    mask = region((40, 40, 40), (10, 14), (10, 15), (10, 11))
    assert limits(box_of_size(mask, (8, 8, 8))) == [(8, 16), (9, 17), (7, 15)]


@pytest.mark.parametrize(("at", "expected"), [((0, 3), (0, 8)), ((17, 20), (12, 20))])
def test_at_the_border_the_box_is_moved_and_keeps_its_size(at, expected):
    mask = region((20, 30, 30), at, (10, 14), (10, 14))
    assert limits(box_of_size(mask, (8, 8, 8)))[0] == expected


def test_a_volume_smaller_than_the_box_is_taken_whole():
    mask = region((6, 30, 30), (1, 2), (10, 14), (10, 14))
    assert limits(box_of_size(mask, (8, 8, 8)))[0] == (0, 6)


def test_a_region_larger_than_the_box_is_not_cut():
    mask = region((30, 30, 30), (2, 25), (10, 14), (10, 14))
    assert limits(box_of_size(mask, (8, 8, 8)))[0] == (2, 25)


def test_the_margin_ends_at_the_border():
    mask = region((30, 30, 30), (1, 5), (10, 14), (28, 30))
    assert limits(box_with_margin(mask, (3, 2, 1))) == [(0, 8), (8, 16), (27, 30)]


def test_nothing_has_no_box():
    for box in (box_of_size, box_with_margin):
        with pytest.raises(ValueError, match="no region"):
            box(np.zeros((4, 4, 4), dtype=bool), (2, 2, 2))


def test_a_stray_voxel_does_not_move_the_box():
    segmentation = np.zeros((30, 30, 30), dtype=np.uint8)
    segmentation[5:9, 5:9, 5:9] = 1
    segmentation[5:9, 5:9, 20:24] = 2
    segmentation[29, 29, 29] = 1
    mask = largest_parts(segmentation, (1, 2))
    np.testing.assert_array_equal(mask, (segmentation > 0) & (np.indices(mask.shape)[0] < 29))
