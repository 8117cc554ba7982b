"""Regions of a data set, as ``dataset.json`` describes them, and the order in which nnU-Net writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .text import joined_by_and

Regions = dict[str, tuple[int, ...]]


def contradictions(labels: Mapping[str, object], regions_class_order: Sequence[int] | None) -> list[str]:
    """Say what even a perfect network would get wrong, a sentence for each value of the voxels that it concerns.

    nnU-Net writes a region after the other, each as its value of ``regions_class_order``, over those before
    (``LabelManager.convert_probabilities_to_segmentation``). A voxel must lie in the same regions before and after.

    Args:
        labels: of ``dataset.json``, such that nnU-Net's label manager takes them.
        regions_class_order: of ``dataset.json``; not read where no label is a region.

    Returns:
        Sentences without a full stop; none where all is well, or where the data set has no regions.
    """
    regions = _regions(labels)
    if not regions or regions_class_order is None:
        return []
    order = [int(value) for value in regions_class_order]
    remedy = _remedy(regions)
    found = []
    for value in sorted({value for values in regions.values() for value in values}):
        written = _written(value, regions, order)
        before, after = _holding(value, regions), _holding(written, regions)
        if before != after:
            named = [joined_by_and(names) or "no region" for names in (before, after)]
            found.append(
                f"regions_class_order {order} contradicts the regions: nnU-Net writes voxels of {named[0]} "
                f"(value {value}) as {written}, which is {named[1]}; {remedy}"
            )
    return found


def values_of(label_or_region: object) -> tuple[int, ...]:
    """List the values of a label (a number) or of a region (several); numbers written as text serve, as in nnU-Net."""
    many = isinstance(label_or_region, list | tuple)
    return tuple(int(value) for value in (label_or_region if many else [label_or_region]))


def _regions(labels: Mapping[str, object]) -> Regions:
    """Find the regions as nnU-Net does: none unless a label has several values; neither background nor ignore."""
    if not any(isinstance(value, list | tuple) and len(value) > 1 for value in labels.values()):
        return {}
    values = {name: values_of(value) for name, value in labels.items() if name != "ignore"}
    return {name: found for name, found in values.items() if {*found} != {0}}


def _written(value: int, regions: Regions, order: Sequence[int]) -> int:
    """Find the value that nnU-Net writes where a voxel of ``value`` is predicted without an error."""
    written = 0
    for region, own in zip(regions.values(), order, strict=False):  # of other lengths nnU-Net says that itself
        if value in region:
            written = own
    return written


def _holding(value: int, regions: Regions) -> tuple[str, ...]:
    return tuple(name for name, region in regions.items() if value in region)


def _remedy(regions: Regions) -> str:
    """Name the order that is right for the regions as they are listed, if there is one."""
    last: dict[str, int] = {}
    for value in sorted({value for values in regions.values() for value in values}):
        holding = _holding(value, regions)
        other = last.setdefault(holding[-1], value)
        if _holding(other, regions) != holding:
            return "list a region that contains another one before it, and overlapping ones with their overlap last"
    order = [last.get(name, region[0]) for name, region in regions.items()]
    return f"{order} would be right"
