"""Components of labels removed from a segmentation, as a filter says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.ndimage import find_objects

from .boxes import joint_box
from .component_rules import NEIGHBOURS, ComponentFilter, ComponentRule
from .components import connected_components
from .metric import SLACK


def filtered(
    array: np.ndarray,
    component_filter: ComponentFilter,
    values: Mapping[str, Sequence[int]],
    voxel_mm3: float,
    background: int = 0,
) -> tuple[np.ndarray, dict[str, int]]:
    """Remove components, label after label in the order of ``values``; what is removed becomes background.

    So nnU-Net's ``remove_all_but_largest_component_from_segmentation`` does it, for regions, too: a voxel that leaves a
    region leaves all that it is in.

    Args:
        array: unsigned integers.
        values: in ``array``, above 0, of each label or region, by name; all that the filter has a rule for.

    Returns:
        The array, a copy where something is removed, and how many components of each label with a rule were removed.

    Raises:
        ValueError: for a rule of an unknown label.
    """
    component_filter.check(values)
    if not component_filter.rules:
        return array, {}
    array = array.copy()
    boxes = find_objects(array, max_label=max(map(max, values.values())))
    removed = {}
    for name in (name for name in values if name in component_filter.rules):
        part = array[joint_box([boxes[value - 1] for value in values[name]], array.ndim)]
        numbers = connected_components(np.isin(part, values[name]), NEIGHBOURS)
        sizes = np.bincount(numbers.ravel())[1:]
        leave = np.ones(len(sizes), dtype=bool)
        leave[largest_first(sizes)[: n_kept(sizes, component_filter.rules[name], voxel_mm3)]] = False
        part[np.concatenate(([False], leave))[numbers]] = background
        removed[name] = int(leave.sum())
    return array, removed


def largest_first(sizes: np.ndarray) -> np.ndarray:
    """The order of components by their size; of equal ones the first comes first."""
    return np.argsort(-sizes, kind="stable")


def n_kept(sizes: np.ndarray, rule: ComponentRule, voxel_mm3: float) -> int:
    """How many components, of these numbers of voxels, a rule keeps: the so many largest."""
    large = int(np.count_nonzero(sizes * voxel_mm3 >= rule.smallest_mm3 * (1 - SLACK)))
    return large if rule.largest is None else min(large, rule.largest)
