"""FLARE: ``inputs/CASE_0000.nii.gz``, to ``outputs/CASE.nii.gz``; more channels are ``_0001``, ``_0002``, ..."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..inference_settings import InferenceSettings
from .base_platform import CaseFiles, Platform, register
from .numbered_cases import numbered_cases


class FLARE(Platform):
    """Further channels are `_0001`, `_0002`. As many channels as the model has are expected; one missing or too many is
    an error of that case. FLARE's script ([`FLARE24/resource_eval.py`](https://github.com/JunMa11/FLARE), `aad2cc2`)
    starts `TEAM:latest` of `TEAM.tar.gz`, so package with `--image TEAM`: small letters, no dot, slash or tag. It makes
    the output folder anew for each team and gives others no right to write there, so the container's user is root.
    """

    name = "flare"
    title = "FLARE"
    reads = "`/workspace/inputs/CASE_0000.nii.gz`"
    writes = "`/workspace/outputs/CASE.nii.gz`"
    called_as = '`/bin/bash -c "sh predict.sh"`'
    user = "root"
    input = "/workspace/inputs"
    output = "/workspace/outputs"
    memory_gb = 28

    def find_cases(self, input_folder: Path, output_folder: Path, settings: InferenceSettings) -> list[CaseFiles]:
        return numbered_cases(input_folder, output_folder, settings.n_channels)

    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        for channel, image in enumerate(images):
            shutil.copyfile(image, input_folder / f"case_{channel:04d}.nii.gz")


register(FLARE())
