"""The channels and labels of nnU-Net's dataset.json, and whether they are those that a network was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_mamba.text import excerpt


def channels_of(dataset: Mapping[str, Any]) -> dict[int, str]:
    """Numbers and names of the input channels, in order; nnU-Net takes ``modality``, as it was called, before
    ``channel_names``."""
    names = dataset["modality"] if "modality" in dataset else dataset["channel_names"]
    return {int(number): str(name) for number, name in sorted(names.items(), key=lambda item: int(item[0]))}


def labels_of(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Names and values of the labels or regions, without the ignore label, of which a network knows nothing."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataset["labels"].items()
        if name != "ignore"
    }


def changed_meaning(trained: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say what of a network's inputs and outputs is another one by the dataset.json of now; empty if nothing is.

    Labels and channels that have other names only are none (``renamed``).
    """
    before, after = labels_of(trained), labels_of(now)
    for name in filter(after.__contains__, before):
        if before[name] != after[name]:
            return f"the label {excerpt(name)} was {excerpt(before[name])} and is {excerpt(after[name])}"
    values = [list(labels.values()) for labels in (before, after)]
    for value in [*values[0], *values[1]]:
        if values[0].count(value) != values[1].count(value):
            return f"the labels were {excerpt(before)} and are {excerpt(after)}"
    orders = [(each.get("regions_class_order"), [*labels]) for each, labels in ((trained, before), (now, after))]
    if orders[0] != orders[1] and any(isinstance(value, list) for value in after.values()):
        return "the regions or regions_class_order came in another order"
    names = [list(channels_of(each).values()) for each in (trained, now)]
    if names[0] != names[1] and (len(names[0]) != len(names[1]) or sorted(names[0]) == sorted(names[1])):
        return f"the channels were {excerpt(names[0])} and are {excerpt(names[1])}"
    return ""


def renamed(trained: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say which channels and labels have other names by the dataset.json of now; empty if none has.

    Args:
        trained, now: between which ``changed_meaning`` finds no difference.
    """
    names = [*zip(channels_of(trained).values(), channels_of(now).values(), strict=True)]
    before, after = labels_of(trained), labels_of(now)
    lost, new = ([name for name in one if name not in other] for one, other in ((before, after), (after, before)))
    names += [(name, next(each for each in new if after[each] == before[name])) for name in lost]
    return ", ".join(f"{excerpt(name)} is {excerpt(other)} now" for name, other in names if name != other)
