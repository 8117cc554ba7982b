"""The labels or regions of a data set, as nnU-Net's label manager understands ``dataset.json``."""

from __future__ import annotations

from dataclasses import dataclass

from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager


@dataclass(frozen=True)
class Label:
    """A label or region.

    Attributes:
        name: in ``dataset.json``.
        key: in nnU-Net's ``summary.json``: ``"1"``, or ``"(1, 2)"`` for a region.
        values: of the voxels that belong to it.
    """

    name: str
    key: str
    values: tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """What is measured, and which values the images may have.

    Attributes:
        measured: in nnU-Net's order.
        known: all values, ascending, background included.
        ignore: the value of reference voxels that do not count, if the data set has one.
    """

    measured: tuple[Label, ...]
    known: tuple[int, ...]
    ignore: int | None


def read_labels(dataset_json: dict, plans: PlansManager | None) -> Labels:
    """The labels of a data set; with plans, by the label manager that they name.

    Raises:
        ValueError: nnU-Net cannot make sense of the labels, or there are none.
    """
    labels = dataset_json.get("labels", {})
    try:
        if plans is None:
            manager = LabelManager(labels, dataset_json.get("regions_class_order"))
        else:
            manager = plans.get_label_manager(dataset_json)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"nnU-Net cannot use the labels of dataset.json: {error}") from error
    measured = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    if not measured:
        raise ValueError("dataset.json has no label besides the background")
    names = {_values(value): name for name, value in labels.items() if name != "ignore"}
    return Labels(
        tuple(Label(names[_values(value)], str(value), _values(value)) for value in measured),
        tuple(int(value) for value in manager.all_labels),
        manager.ignore_label,
    )


def _values(label_or_region: int | list[int] | tuple[int, ...]) -> tuple[int, ...]:
    many = isinstance(label_or_region, list | tuple)
    return tuple(int(value) for value in label_or_region) if many else (int(label_or_region),)
