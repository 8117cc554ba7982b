"""The image and label files of a raw data set, found as nnU-Net finds them and checked by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import is_hidden
from nnunetv2_mamba.text import first_few

from .dataset_checks import channel_names, supported_endings

_SHOWN = 5


@dataclass(frozen=True)
class Case:
    """Files of a training case; images in the order of the channels."""

    images: tuple[Path, ...]
    label: Path


def find_cases(folder: Path, description: dict[str, Any]) -> dict[str, Case]:
    """The training cases by name.

    Args:
        folder: of the raw data set.
        description: its ``dataset.json``, checked.

    Raises:
        ValueError: for folders and files that are missing or that nnU-Net would misread, and for another number of
            cases than the description's, with the remedy.
    """
    cases = _listed(folder, description) if "dataset" in description else _in_folders(folder, description)
    missing = [file for case in cases.values() for file in (*case.images, case.label) if not file.is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {first_few([_relative(file, folder) for file in missing], _SHOWN)}; "
            "add what is missing, or take the case away"
        )
    expected = description["numTraining"]
    if len(cases) != expected:
        raise ValueError(
            f"{folder / 'dataset.json'}, numTraining: it is {expected}, but there are {len(cases)} cases "
            f"({', '.join(list(cases)[:3])}, ...); correct the number, or add what is missing"
        )
    return cases


def _listed(folder: Path, description: dict[str, Any]) -> dict[str, Case]:
    cases, ending = {}, description["file_ending"]
    for name, files in description["dataset"].items():
        images = tuple(folder / os.path.expandvars(file) for file in files["images"])
        case = Case(images, folder / os.path.expandvars(files["label"]))
        for file in (*case.images, case.label):
            if not file.name.endswith(ending):
                raise ValueError(f"{folder / 'dataset.json'}, dataset: {file} of {name} does not end in {ending}")
        cases[name] = case
    return cases


def _in_folders(folder: Path, description: dict[str, Any]) -> dict[str, Case]:
    images, labels, ending = folder / "imagesTr", folder / "labelsTr", description["file_ending"]
    for needed in (images, labels):
        if not needed.is_dir():
            raise ValueError(f"{needed} is no folder; put the {needed.name.removesuffix('Tr')} of the cases there")
    names = sorted(entry.name for entry in images.iterdir())
    if hidden := [name for name in names if is_hidden(Path(name)) and name.endswith(ending)]:
        raise ValueError(
            f"{images} has hidden files, which nnU-Net takes for images: {first_few(hidden, _SHOWN)}; "
            f"remove them (macOS leaves such files beside what it copies: find '{images}' -name '._*' -delete)"
        )
    found, odd = _by_channel([name for name in names if name.endswith(ending)], ending)
    if odd:
        raise ValueError(
            f"{images} has files without a channel's number: {first_few(odd, _SHOWN)}; "
            f"rename them to CASE_0000{ending}, one for each channel"
        )
    _refuse_other_endings(images, names, found, ending)
    _check_channels(images, found, len(channel_names(description)), ending)
    return {
        case: Case(tuple(images / f"{case}_{channel}{ending}" for channel in channels), labels / f"{case}{ending}")
        for case, channels in found.items()
    }


def _by_channel(names: Iterable[str], ending: str) -> tuple[dict[str, list[str]], list[str]]:
    """Channels' numbers by case, and the names that have none."""
    found: dict[str, list[str]] = {}
    odd = []
    for name in names:
        if match := re.fullmatch(r"(.+)_([0-9]{4})", name.removesuffix(ending), re.DOTALL):
            found.setdefault(match[1], []).append(match[2])
        else:
            odd.append(name)
    return found, odd


def _refuse_other_endings(images: Path, names: list[str], found: dict[str, list[str]], ending: str) -> None:
    """Cases that nnU-Net would leave out without a word."""
    lower = {name: name.lower() for name in names if not name.endswith(ending)}
    lost = []
    for other in supported_endings():
        of_other = [name for name, text in lower.items() if text.endswith(other) and not is_hidden(Path(name))]
        lost += [name for name in of_other if name[: -len(other) - len("_0000")] not in found]
    if lost:
        raise ValueError(
            f"{images} has images that do not end in {ending}, the file_ending of dataset.json: "
            f"{first_few(sorted(lost), _SHOWN)}; convert or move them, or correct file_ending"
        )
    if not found:
        raise ValueError(f"{images} has no images CASE_0000{ending}; put them there, or correct file_ending")


def _check_channels(images: Path, found: dict[str, list[str]], n_channels: int, ending: str) -> None:
    """One file may hold all channels, as colours; several files are one each, the same for all cases."""
    channels = sorted({channel for own in found.values() for channel in own})
    if len(channels) > n_channels:
        case = next(case for case, own in found.items() if channels[-1] in own)
        raise ValueError(
            f"{images} has the channels {', '.join(channels)} (such as {case}_{channels[-1]}{ending}), but "
            f"channel_names of dataset.json has {n_channels}; take them away or name them"
        )
    missing = [f"{case}_{channel}{ending}" for case, own in found.items() for channel in channels if channel not in own]
    if missing:
        raise ValueError(f"{images} lacks {first_few(missing, _SHOWN)}, which other cases have; add what is missing")


def _relative(file: Path, folder: Path) -> str:
    return str(file.relative_to(folder)) if file.is_relative_to(folder) else str(file)
