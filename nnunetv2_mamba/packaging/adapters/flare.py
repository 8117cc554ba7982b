"""FLARE: ``inputs/CASE_0000.nii.gz``, to ``outputs/CASE.nii.gz``; more channels are ``_0001``, ``_0002``, ..."""

from __future__ import annotations

import re
from pathlib import Path

from ..settings import Settings
from . import Case

INPUT, OUTPUT = Path("/workspace/inputs"), Path("/workspace/outputs")
ENDING = ".nii.gz"


def find_cases(input_folder: Path, output_folder: Path, settings: Settings) -> list[Case]:
    """All cases; a file that is missing between two channels is listed, so that it is named when it is read.

    Raises:
        OSError, ValueError: where there are none.
    """
    highest: dict[str, int] = {}
    for file in sorted(input_folder.iterdir()):
        numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ENDING)}", file.name)
        if numbered:
            highest[numbered[1]] = max(highest.get(numbered[1], 0), int(numbered[2]))
    if not highest:
        raise ValueError(f"{input_folder} has no CASE_0000{ENDING}")
    return [
        Case(
            name,
            tuple(input_folder / f"{name}_{channel:04d}{ENDING}" for channel in range(last + 1)),
            output_folder / f"{name}{ENDING}",
        )
        for name, last in highest.items()
    ]
