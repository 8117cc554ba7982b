"""BraTS 2023 to 2025: a folder per case with a file per modality, one label file per case.

2025 and later mount ``/input`` and ``/output``; the MLCubes of 2023 and 2024 pass the folders as arguments.
"""

from __future__ import annotations

from pathlib import Path

from ..settings import Settings
from . import Case, strays, visible

INPUT, OUTPUT = Path("/input"), Path("/output")
ENDING = ".nii.gz"
MODALITIES = ("t1c", "t1n", "t2f", "t2w")
# What data sets of BraTS call them, in lower case and without other signs than letters and digits.
_NAMES = {"t1c": "t1c t1ce t1gd t1contrast", "t1n": "t1n t1", "t2f": "t2f flair t2flair", "t2w": "t2w t2"}


def find_cases(input_folder: Path, output_folder: Path, settings: Settings) -> list[Case]:
    """All cases; images that lie in no folder are cases with a problem.

    Raises:
        OSError, ValueError: where there are none.
    """
    paths = visible(input_folder)
    folders = [path for path in paths if path.is_dir()]
    lost = strays((path for path in paths if not path.is_dir()), f"in the folder of a case, as CASE/CASE-t1n{ENDING}")
    if not folders and not lost:
        raise ValueError(f"{input_folder} has no folder of a case")
    return [
        Case(
            folder.name,
            tuple(folder / f"{folder.name}-{modality}{ENDING}" for modality in settings.channels),
            output_folder / f"{folder.name}{ENDING}",
        )
        for folder in folders
    ] + lost


def modality_of(channel_name: str) -> str | None:
    """The modality that a model's channel is, by its name in dataset.json; None if the name does not tell."""
    plain = "".join(letter for letter in channel_name.lower() if letter.isalnum())
    return next((modality for modality, names in _NAMES.items() if plain in names.split()), None)
