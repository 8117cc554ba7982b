"""BraTS 2023 to 2026: a folder per case with a file per modality, one label file per case."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..inference_settings import InferenceSettings
from .base_platform import CaseFiles, Platform, register, stray_images, visible_entries

ENDING = ".nii.gz"
MODALITIES = ("t1c", "t1n", "t2f", "t2w")
# What data sets of BraTS call them, in lower case and without other signs than letters and digits.
_NAMES = {"t1c": "t1c t1ce t1gd t1contrast", "t1n": "t1n t1", "t2f": "t2f flair t2flair", "t2w": "t2w t2"}


class BraTS(Platform):
    """Channels are recognised by their names in `dataset.json` (`T1`, `T1ce`, `T1Gd`, `FLAIR`, `T2`, ...); where that
    fails, `--modalities` lists them in the model's order. Case and modality are joined by `-`, or by `_` as in the task
    of meningiomas before radiotherapy. `mlcube.yaml` is for the MLCubes of 2023 and 2024.
    """

    name = "brats"
    title = "BraTS"
    reads = "`/input/CASE/CASE-t1c.nii.gz`, `-t1n`, `-t2f`, `-t2w`"
    writes = "`/output/CASE.nii.gz`"
    called_as = "the entry point; 2023 and 2024 as MLCube: `infer --data_path=/mlcube_io0 --output_path=/mlcube_io2`"
    user = "the caller's user and group id"
    shared_memory_gb = 4
    options = {
        "modalities": {
            "nargs": "+",
            "metavar": "M",
            "help": f"brats: {', '.join(MODALITIES)} in the order of the model's channels",
        }
    }

    def settings(
        self, options: Mapping[str, Any], channel_names: Sequence[str], label_names: Sequence[str]
    ) -> dict[str, Any]:
        modalities = options.get("modalities") or [modality_of(name) or "" for name in channel_names]
        valid = set(modalities) <= set(MODALITIES) and len(set(modalities)) == len(modalities)
        if not valid or len(modalities) != len(channel_names):
            raise ValueError(
                f"--modalities must name one of {', '.join(MODALITIES)} for each of the model's channels "
                f"({', '.join(channel_names)}), in their order"
            )
        return {"channels": tuple(modalities)}

    def find_cases(self, input_folder: Path, output_folder: Path, settings: InferenceSettings) -> list[CaseFiles]:
        paths = visible_entries(input_folder)
        folders = [path for path in paths if path.is_dir()]
        files = (path for path in paths if not path.is_dir())
        strays = stray_images(files, f"in the folder of a case, as CASE/CASE-t1n{ENDING}")
        if not folders and not strays:
            raise ValueError(f"{input_folder} has no folder of a case")
        return [
            CaseFiles(
                folder.name,
                tuple(_image(folder, modality) for modality in settings.channels),
                output_folder / f"{folder.name}{ENDING}",
            )
            for folder in folders
        ] + strays

    def lay_out(self, images: Sequence[Path], input_folder: Path, settings: InferenceSettings) -> None:
        case = input_folder / "BraTS-00000-000"
        case.mkdir()
        for modality, image in zip(settings.channels, images, strict=True):
            shutil.copyfile(image, case / f"{case.name}-{modality}{ENDING}")


def _image(case: Path, modality: str) -> Path:
    """By the name that is there; by the one with ``-`` where there is neither."""
    names = [case / f"{case.name}{joint}{modality}{ENDING}" for joint in "-_"]
    with suppress(PermissionError):  # of this case alone, which says so when it is read
        return next(filter(Path.is_file, names), names[0])
    return names[0]


def modality_of(channel_name: str) -> str | None:
    """The modality that a model's channel is, by its name in dataset.json; None if the name does not tell."""
    plain = "".join(letter for letter in channel_name.lower() if letter.isalnum())
    return next((modality for modality, names in _NAMES.items() if plain in names.split()), None)


register(BraTS())
