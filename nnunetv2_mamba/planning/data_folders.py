"""Folders of preprocessed data, which plans share as long as they preprocess in the same way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunetv2_mamba.nnunet.planned_configuration import preprocessing_of
from nnunetv2_mamba.nnunet.plans_files import plans_files, read_plans


def settle_data_folders(plans: dict[str, Any], old: dict[str, Any], file: Path) -> None:
    """See to it that data in a folder that the plans name are, if there are any, preprocessed as the plans say.

    A configuration gets a folder of its own where plans of other names have its folder for other data. What ``old`` has
    preprocessed in another way is removed, unless other plans have had it made anew: whoever looks later sees only
    that the cases are there. Where in doubt it is removed, which costs time only.

    Args:
        plans: that are to be written to ``file``, as JSON has them; changed in place.
        old: the plans in that file; empty if there are none.

    Raises:
        OSError: if a file cannot be read, or data not be removed.
        ValueError: for damaged plans, and for a link to data that were to be removed.
    """
    others = {other: read_plans(other) for other in plans_files(file.parent) if other != file}
    for name, configuration in plans["configurations"].items():
        folder, wanted = configuration.get("data_identifier"), preprocessing_of(plans, name)
        if folder is None:
            continue
        differing = [other.name for other in others if any(made != wanted for made in _made(folder, others[other]))]
        if differing:
            folder, taken = f"{file.stem}_{name}", folder
            configuration["data_identifier"] = folder
            print(f"{differing[0]} preprocesses {taken} in another way; using {folder} instead")
        data = file.with_name(folder)
        outdated = any(made != wanted for made in _made(folder, old))
        wanting = [other for other in others if wanted in _made(folder, others[other])]
        if outdated and not any(_preprocessed_since(other, data) for other in wanting):
            _remove(data)


def _made(folder: str, plans: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How plans preprocess the data in a folder, once for every configuration that names it and all there is to it."""
    for name, configuration in plans.get("configurations", {}).items():
        if configuration.get("data_identifier") == folder and "inherits_from" not in configuration:
            yield preprocessing_of(plans, name)


def _preprocessed_since(plans: Path, data: Path) -> bool:
    """Whether all data in a folder were made after a file of plans was written, as nnU-Net makes them."""
    made = [case.stat().st_mtime_ns for case in data.glob("*.pkl")]
    return bool(made) and min(made) > plans.stat().st_mtime_ns


def _remove(folder: Path) -> None:
    if folder.is_symlink():  # nnU-Net cannot empty it either
        raise ValueError(
            f"{folder} is a link to data that were preprocessed in another way by earlier plans of this name; delete "
            "both and plan again"
        )
    if folder.is_dir():
        print(f"{folder.name} was preprocessed in another way by earlier plans of this name; these data are removed")
        shutil.rmtree(folder)
