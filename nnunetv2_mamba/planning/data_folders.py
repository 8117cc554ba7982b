"""Folders of preprocessed data, which plans share as long as they preprocess in the same way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import is_hidden, read_json_object
from nnunetv2_mamba.nnunet.planned_configuration import preprocessing_of


def read_plans(file: Path) -> dict[str, Any]:
    """Read a file of plans.

    Raises:
        OSError: if it cannot be read.
        ValueError: for what is no plans, naming the file.
    """
    plans = read_json_object(file)
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or not all(isinstance(own, dict) for own in configurations.values()):
        raise ValueError(f"{file} holds no plans of nnU-Net: it has no 'configurations'; correct it or move it away")
    return plans


def settle_data_folders(plans: dict[str, Any], old: dict[str, Any], file: Path) -> None:
    """See to it that data in a folder that the plans name are, if there are any, preprocessed as the plans say.

    A configuration gets a folder of its own where plans of other names have its folder for other data. What ``old`` has
    preprocessed in another way is removed, unless other plans have had it made anew: whoever looks later sees only
    that the cases are there.

    Args:
        plans: that are to be written to ``file``, as JSON has them; changed in place.
        old: the plans in that file; empty if there are none.
    """
    others = {other.name: read_plans(other) for other in _others(file)}
    for name, configuration in plans["configurations"].items():
        folder, wanted = configuration.get("data_identifier"), preprocessing_of(plans, name)
        if folder is None:
            continue
        differing = [other for other in others if any(made != wanted for made in _made(folder, others[other]))]
        if differing:
            folder, taken = f"{file.stem}_{name}", folder
            configuration["data_identifier"] = folder
            print(f"{differing[0]} preprocesses {taken} in another way; using {folder} instead")
        outdated = any(made != wanted for made in _made(folder, old))
        if outdated and not any(list(_made(folder, other)) for other in others.values()):
            _remove(file.with_name(folder))


def _others(file: Path) -> list[Path]:
    return [other for other in sorted(file.parent.glob("*Plans*.json")) if other != file and not is_hidden(other)]


def _made(folder: str, plans: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How plans preprocess the data in a folder, once for every configuration that names it and all there is to it."""
    for name, configuration in plans.get("configurations", {}).items():
        if configuration.get("data_identifier") == folder and "inherits_from" not in configuration:
            yield preprocessing_of(plans, name)


def _remove(folder: Path) -> None:
    if folder.is_dir():
        print(f"{folder.name} was preprocessed in another way by earlier plans of this name; these data are removed")
        shutil.rmtree(folder)
