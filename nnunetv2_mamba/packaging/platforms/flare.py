"""FLARE: ``inputs/CASE_0000.nii.gz``, to ``outputs/CASE.nii.gz``; more channels are ``_0001``, ``_0002``, ..."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..inference_settings import InferenceSettings
from .base_platform import CaseFiles, Platform, register, stray_images, visible_entries

ENDING = ".nii.gz"


class FLARE(Platform):
    """Further channels are `_0001`, `_0002`. The container's user is not root: the output folder must let others write,
    or add `--user "$(id -u):$(id -g)"` to `docker run`. As many channels as the model has are expected; one missing or
    too many is an error of that case.
    """

    name = "flare"
    title = "FLARE"
    reads = "`/workspace/inputs/CASE_0000.nii.gz`"
    writes = "`/workspace/outputs/CASE.nii.gz`"
    called_as = '`/bin/bash -c "sh predict.sh"`'
    input = "/workspace/inputs"
    output = "/workspace/outputs"
    memory_gb = 28

    def find_cases(self, input_folder: Path, output_folder: Path, settings: InferenceSettings) -> list[CaseFiles]:
        channels = range(settings.n_channels)
        cases: dict[str, CaseFiles] = {}
        others = []
        for file in visible_entries(input_folder):
            numbered = re.fullmatch(rf"(.+)_(\d{{4}}){re.escape(ENDING)}", file.name)
            if numbered is None:
                others.append(file)
                continue
            name = numbered[1]
            images = tuple(input_folder / f"{name}_{channel:04d}{ENDING}" for channel in channels)
            cases.setdefault(name, CaseFiles(name, images, output_folder / f"{name}{ENDING}"))
            if int(numbered[2]) not in channels:
                problem = f"{file} is a channel too many: the model takes {len(channels)}, from _0000 on"
                cases[name] = replace(cases[name], problem=problem)
        strays = stray_images(others, f"named CASE_0000{ENDING}")
        if not cases and not strays:
            raise ValueError(f"{input_folder} has no CASE_0000{ENDING}")
        return [*cases.values(), *strays]


register(FLARE())
