"""FLARE: ``inputs/CASE_0000.nii.gz``, to ``outputs/CASE.nii.gz``; more channels are ``_0001``, ``_0002``, ..."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..settings import Settings
from . import Case, strays, visible

INPUT, OUTPUT = Path("/workspace/inputs"), Path("/workspace/outputs")
ENDING = ".nii.gz"


def find_cases(input_folder: Path, output_folder: Path, settings: Settings) -> list[Case]:
    """All cases, with as many channels as the model has; images of other names are cases with a problem.

    Raises:
        OSError, ValueError: where there are none.
    """
    channels = range(settings.n_channels)
    cases: dict[str, Case] = {}
    others = []
    for file in visible(input_folder):
        numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ENDING)}", file.name)
        if numbered is None:
            others.append(file)
            continue
        name = numbered[1]
        images = tuple(input_folder / f"{name}_{channel:04d}{ENDING}" for channel in channels)
        cases.setdefault(name, Case(name, images, output_folder / f"{name}{ENDING}"))
        if int(numbered[2]) not in channels:
            problem = f"{file} is a channel too many: the model takes {len(channels)}, from _0000 on"
            cases[name] = replace(cases[name], problem=problem)
    lost = strays(others, f"named CASE_0000{ENDING}")
    if not cases and not lost:
        raise ValueError(f"{input_folder} has no CASE_0000{ENDING}")
    return [*cases.values(), *lost]
