"""Errors of volumes, by hand."""

import numpy as np
import pytest
from masks import box

from nnunetv2_mamba.evaluation.case_measurement import measure_label_maps
from nnunetv2_mamba.evaluation.label_map import Geometry, LabelMap
from nnunetv2_mamba.evaluation.measured_labels import read_labels
from nnunetv2_mamba.evaluation.metric_options import VOLUMES, MetricOptions

LABELS = read_labels({"labels": {"background": 0, "lesion": 1}}, None)


def errors(n_reference, n_prediction, shape=(10, 10, 10), spacing=(2.0, 0.8, 1.1)):
    """Of the first voxels of the last axis, row by row."""
    images = []
    for n in (n_reference, n_prediction):
        mask = (np.arange(np.prod(shape)) < n).reshape(shape)
        images.append(LabelMap(mask.astype(np.uint8) + 1, Geometry(shape, spacing)))
    values = measure_label_maps(*images, LABELS, MetricOptions(groups=(VOLUMES,)))["1"]
    return values["absolute_volume_error"], values["relative_volume_error"]


def test_by_hand():
    """A voxel has 1.76 mm3: 200 more are 0.352 ml, of 500 (0.88 ml)."""
    assert errors(500, 700) == pytest.approx((0.352, 0.4))
    assert errors(700, 500) == pytest.approx((0.352, 200 / 700))
    assert errors(500, 500) == (0, 0)


def test_where_it_lies_does_not_matter():
    shape = (8, 8, 8)
    masks = (box(shape, (0, 0, 0), (3, 3, 3)), box(shape, (4, 4, 4), (7, 7, 7)))
    images = [LabelMap(mask.astype(np.uint8) + 1, Geometry(shape, (1.0, 1.0, 1.0))) for mask in masks]
    values = measure_label_maps(*images, LABELS, MetricOptions(groups=(VOLUMES,)))["1"]
    assert values["absolute_volume_error"] == values["relative_volume_error"] == values["dice"] == 0


def test_in_one_image_or_none():
    assert errors(500, 0) == pytest.approx((0.88, 1))
    assert errors(0, 500) == pytest.approx((0.88, np.inf))
    assert np.isnan(errors(0, 0)).all()


@pytest.mark.parametrize("shape", [(1, 10, 20), (10, 1, 20), (10, 20, 1), (1, 1, 200)])
def test_a_slice_has_its_thickness(shape):
    """Distances are measured in the plane, volumes are not."""
    assert errors(100, 150, shape, (3.0, 3.0, 3.0)) == pytest.approx((50 * 27 / 1000, 0.5))
