"""The labels or regions of a data set, as nnU-Net's label manager understands ``dataset.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..regions import contradictions, values_of

_MOST = 1 << 24  # above it, the 32-bit numbers that nnU-Net's readers give are no longer all whole numbers


@dataclass(frozen=True)
class Label:
    """A label or region.

    Attributes:
        name: in ``dataset.json``.
        key: in nnU-Net's ``summary.json``: ``"1"``, or ``"(1, 2)"`` for a region.
        values: of the voxels that belong to it.
        head: of nnU-Net's network, counted from 0, that gives its probability.
    """

    name: str
    key: str
    values: tuple[int, ...]
    head: int


@dataclass(frozen=True)
class Labels:
    """What is measured, and which values the images may have.

    Attributes:
        measured: in nnU-Net's order.
        known: all values, ascending, background included.
        ignore: the value of reference voxels that do not count, if the data set has one.
        n_heads: of nnU-Net's network: one for each region, or one for each label and the background.
        regions_class_order: what nnU-Net writes for each region's head, one over the other; empty without regions.
        contradictions: sentences, where nnU-Net cannot write the regions in its ``regions_class_order``.
    """

    measured: tuple[Label, ...]
    known: tuple[int, ...]
    ignore: int | None
    n_heads: int
    regions_class_order: tuple[int, ...] = ()
    contradictions: tuple[str, ...] = ()

    @property
    def are_regions(self) -> bool:
        """Whether each head gives a probability of its own; else they are shares of 1, the background's among them."""
        return self.n_heads == len(self.measured)


def read_labels(dataset_json: dict, plans: PlansManager | None, file: Path = Path("dataset.json")) -> Labels:
    """Read the labels of a data set; with plans, by the label manager that they name.

    Args:
        file: where ``dataset_json`` was read, for messages.

    Raises:
        ValueError: nnU-Net cannot make sense of the labels, two are the same, or there are none.
    """
    labels = dataset_json.get("labels", {})
    order = dataset_json.get("regions_class_order")
    names = _names(labels, file)
    if order is not None and not (isinstance(order, list | tuple) and all(type(value) is int for value in order)):
        raise ValueError(f"{file}: 'regions_class_order' must be a list of values, one for each region, not {order!r}")
    try:
        manager = LabelManager(labels, order) if plans is None else plans.get_label_manager(dataset_json)
    except (AssertionError, RuntimeError) as error:
        raise ValueError(f"nnU-Net cannot use the labels of {file}: {error}") from error
    measured = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    if not measured:
        raise ValueError(f"{file} has no label besides the background")
    heads = measured if manager.has_regions else manager.all_labels
    return Labels(
        tuple(
            Label(names[frozenset(values_of(value))], str(value), values_of(value), heads.index(value))
            for value in measured
        ),
        tuple(int(value) for value in manager.all_labels),
        manager.ignore_label,
        manager.num_segmentation_heads,
        tuple(order or ()) if manager.has_regions else (),
        tuple(contradictions(labels, order)) if manager.has_regions else (),
    )


def _names(labels: object, file: Path) -> dict[frozenset[int], str]:
    """Find the labels' names by their values."""
    if not isinstance(labels, dict):
        example = '{"background": 0, "liver": 1}'
        raise ValueError(f"{file}: 'labels' must give each name its value, as {example}; it is {labels!r}")
    found: dict[frozenset[int], str] = {}
    for name, given in labels.items():
        many = given if isinstance(given, list | tuple) else [given]
        values = [_value(value, name, file) for value in many]
        if len({*values}) < len(values) or not values:
            raise ValueError(f"{file}: the region {name!r} of 'labels' must have different values, not {given!r}")
        if name == "ignore":
            continue
        other = found.setdefault(frozenset(values), name)
        if other != name:
            raise ValueError(
                f"{file}: {other!r} and {name!r} of 'labels' are the same, {given!r}; give them different values, or "
                "leave one out"
            )
    return found


def _value(value: object, name: str, file: Path) -> int:
    """Read a label's value, which nnU-Net takes as a whole number, also where it is written as 1.0 or "1"."""
    as_text = isinstance(value, str) and value.isdecimal() and value.isascii()
    if as_text or (isinstance(value, float) and value.is_integer()):
        value = int(value)
    if type(value) is int and 0 <= value <= _MOST:
        return value
    if isinstance(value, str) and name.isdecimal():
        raise ValueError(
            f"{file}: 'labels' must give each name its value: {value!r}: {name}, not {name!r}: {value!r}, as before "
            "nnU-Net v2"
        )
    raise ValueError(
        f"{file}: the value of {name!r} in 'labels' must be a whole number from 0 to {_MOST}, or a list of such for a "
        f"region, not {value!r}"
    )
