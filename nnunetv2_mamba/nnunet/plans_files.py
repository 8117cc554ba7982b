"""Files of plans in the folder of a preprocessed data set, among the others that lie there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import is_hidden, read_json_object


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


def plans_files(folder: Path) -> list[Path]:
    """The files that have ``Plans`` in their name, damaged or not, and all others that hold plans: any name will do."""
    files = sorted(file for file in folder.glob("*.json") if not is_hidden(file))
    return [file for file in files if "Plans" in file.name or _holds_plans(file)]


def _holds_plans(file: Path) -> bool:
    try:
        read_plans(file)
    except (OSError, ValueError):
        return False
    return True
