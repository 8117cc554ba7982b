"""FLARE: ``inputs/CASE_0000.nii.gz``, to ``outputs/CASE.nii.gz``; more channels are ``_0001``, ``_0002``, ..."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from ..inference_settings import InferenceSettings
from .base_platform import CaseFiles, Platform, register
from .numbered_cases import numbered_cases


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
        return numbered_cases(input_folder, output_folder, settings.n_channels)

    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        for channel, image in enumerate(images):
            shutil.copyfile(image, input_folder / f"case_{channel:04d}.nii.gz")


register(FLARE())
