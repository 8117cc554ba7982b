"""``dataset.json`` of raw data, checked before anything is computed: a mistake is one line with file and remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunetv2_mamba.files import read_json_object
from nnunetv2_mamba.regions import contradictions

_FORMAT = 'such as {"background": 0, "tumor": 1}'


def read_description(file: Path) -> dict[str, Any]:
    """The content of a ``dataset.json`` that nnU-Net can plan, preprocess and train.

    Raises:
        OSError: where the file cannot be read.
        ValueError: for what is no JSON, and for missing or wrong keys.
    """
    description = read_json_object(file)
    for key, example in (("labels", _FORMAT), ("file_ending", 'such as ".nii.gz"'), ("numTraining", "such as 20")):
        if key not in description:
            raise ValueError(f'{file} has no key "{key}"; write it, {example}')
    for problem in (_channels_problem, _files_problem, _number_problem, _labels_problem, _cases_problem):
        text = problem(description)
        if text:
            raise ValueError(f"{file}, {text}")
    return description


def channel_names(description: dict[str, Any]) -> dict[str, str]:
    """Named as in nnU-Net v2 or, ``modality``, as before."""
    return description["channel_names"] if "channel_names" in description else description["modality"]


def label_manager(description: dict[str, Any]) -> LabelManager:
    return LabelManager(description["labels"], description.get("regions_class_order"))


def _channels_problem(description: dict[str, Any]) -> str | None:
    if "channel_names" not in description and "modality" not in description:
        return 'channel_names: the key is missing; write it, such as {"0": "CT"}'
    names = channel_names(description)
    if not isinstance(names, dict) or not names:
        return f'channel_names: must be numbers with names, such as {{"0": "CT"}}; it is {names!r}'
    numbers = [key for key in names if key.isdecimal()]
    if len(numbers) < len(names) or not all(isinstance(name, str) for name in names.values()):
        return f'channel_names: the number comes first, as text, then the name: {{"0": "CT"}}; it is {names!r}'
    if sorted(map(int, numbers)) != list(map(int, numbers)):  # nnU-Net takes them as they stand
        return f"channel_names: must be in the order of their numbers; they are {', '.join(numbers)}"
    return None


def _files_problem(description: dict[str, Any]) -> str | None:
    ending = description["file_ending"]
    if not isinstance(ending, str) or not ending.startswith("."):
        return f'file_ending: must be a text that starts with its dot, such as ".nii.gz"; it is {ending!r}'
    reader = description.get("overwrite_image_reader_writer", "None")
    if not isinstance(reader, str):
        return (
            "overwrite_image_reader_writer: must be the name of a class of nnU-Net, such as SimpleITKIO; it is "
            f"{reader!r}; leave it out otherwise"
        )
    if reader == "None" and ending.lower() not in supported_endings():
        return f"file_ending: nnU-Net reads {', '.join(supported_endings())}; it is {ending!r}"
    return None


def supported_endings() -> list[str]:
    return sorted({ending for reader in LIST_OF_IO_CLASSES for ending in reader.supported_file_endings})


def _number_problem(description: dict[str, Any]) -> str | None:
    number = description["numTraining"]
    if type(number) is not int or number < 1:
        return f"numTraining: must be the number of training cases; it is {number!r}"
    return None


def _labels_problem(description: dict[str, Any]) -> str | None:
    labels = description["labels"]
    if not isinstance(labels, dict) or not labels:
        return f"labels: must be names with numbers, {_FORMAT}; it is {labels!r}"
    for name, value in labels.items():
        values = _values(value)
        if not values or None in values or len(set(values)) < len(values):
            of_v1 = " (so did nnU-Net v1 write them)" if name.isdecimal() else ""
            return (
                f"labels: {name!r} must be a name with its whole number or, for a region, a list of different ones, "
                f"{_FORMAT}; it is {value!r}{of_v1}"
            )
    if isinstance(labels.get("background"), list) or _values(labels.get("background")) != [0]:
        return f'labels: there must be "background": 0; they are {labels!r}'
    return _numbers_problem(labels) or _regions_problem(labels, description.get("regions_class_order"))


def _values(label_or_region: Any) -> list[int | None]:
    """Numbers as nnU-Net takes them, "1" and 1.0 included; None for what is none."""
    return [_number(value) for value in (label_or_region if isinstance(label_or_region, list) else [label_or_region])]


def _number(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() else None
    return int(value) if value >= 0 and value == value // 1 else None


def _numbers_problem(labels: dict[str, Any]) -> str | None:
    named: dict[frozenset, str] = {}
    for name, value in labels.items():
        values = frozenset(_values(value))
        if values in named:
            return f"labels: {named[values]!r} and {name!r} are both {value!r}; leave one of them out"
        named[values] = name
    ignore = labels.get("ignore")
    if ignore is not None and type(ignore) is not int:
        return f"labels: 'ignore' must be one whole number, no region; it is {ignore!r}"
    found = sorted({value for values, name in named.items() if name != "ignore" for value in values})
    if found[-1] == 0:
        return f"labels: there is none besides the background; write them, {_FORMAT}"
    if found != list(range(len(found))):
        return f"labels: their numbers must be 0, 1, 2, ... without a gap; they are {', '.join(map(str, found))}"
    if ignore is not None and ignore != len(found):
        return f"labels: 'ignore' must be one more than the highest label, {len(found)}; it is {ignore}"
    return None


def _regions_problem(labels: dict[str, Any], order: Any) -> str | None:
    if not any(isinstance(value, list) and len(value) > 1 for value in labels.values()):  # nnU-Net's rule
        return None
    for name, value in labels.items():  # here nnU-Net compares them as they are
        if not all(type(number) is int for number in (value if isinstance(value, list) else [value])):
            return f"labels: with regions among them the numbers must be written as such; {name!r} is {value!r}"
    regions = [name for name, value in labels.items() if name != "ignore" and set(_values(value)) != {0}]
    good = isinstance(order, list) and all(type(number) is int for number in order) and len(order) == len(regions)
    if not good:
        return (
            f"regions_class_order: with regions among the labels it must list one whole number for each of "
            f"{', '.join(regions)}; it {'is missing' if order is None else f'is {order!r}'}"
        )
    return next(iter(contradictions(labels, order)), None)


def _cases_problem(description: dict[str, Any]) -> str | None:
    """Of the key ``dataset``, with which nnU-Net finds images that lie elsewhere."""
    if "dataset" not in description:
        return None
    cases = description["dataset"]
    if not isinstance(cases, dict) or not cases:
        return 'dataset: must be cases with files, {"case": {"images": [FILE], "label": FILE}}; leave it out otherwise'
    for name, files in cases.items():
        good = isinstance(files, dict) and isinstance(files.get("label"), str) and isinstance(files.get("images"), list)
        if not good or not files["images"] or not all(isinstance(file, str) for file in files["images"]):
            return f'dataset: case {name!r} must be {{"images": [FILE], "label": FILE}}; it is {files!r}'
        if not name or Path(name).name != name:
            return f"dataset: {name!r} cannot be a case's name, because files are named so"
    return None
