"""Cases of a folder whose files have nnU-Net's names: ``CASE_0000.nii.gz``, ``CASE_0001.nii.gz``, ..."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from .base_platform import CaseFiles, stray_images, visible_entries


def numbered_cases(
    input_folder: Path, output_folder: Path, n_channels: int, ending: str = ".nii.gz"
) -> list[CaseFiles]:
    """All cases, to be written to ``CASE`` and the ending; a channel too many and an image of no case are problems.

    Raises:
        OSError: for a folder that cannot be read.
        ValueError: where it has no images.
    """
    channels = range(n_channels)
    cases: dict[str, CaseFiles] = {}
    others = []
    for file in visible_entries(input_folder):
        numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ending)}", file.name)
        if numbered is None:
            others.append(file)
            continue
        name = numbered[1]
        images = tuple(input_folder / f"{name}_{channel:04d}{ending}" for channel in channels)
        cases.setdefault(name, CaseFiles(name, images, output_folder / f"{name}{ending}"))
        if int(numbered[2]) not in channels:
            problem = f"{file} is a channel too many: the model takes {n_channels}, from _0000 on"
            cases[name] = replace(cases[name], problem=problem)
    strays = stray_images(others, f"named CASE_0000{ending}")
    if not cases and not strays:
        raise ValueError(f"{input_folder} has no CASE_0000{ending}")
    return [*cases.values(), *strays]
