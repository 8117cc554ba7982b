"""A folder of images through both stages of a prediction."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from ..files import is_hidden
from ..text import first_few, printable
from .two_stage import TwoStage
from .volumes import ENDINGS, on_grid_of, open_volume, write_volume

_NIFTI = (".nii.gz", ".nii")
_SHOWN = 5  # cases in a message


def cases_in_folder(folder: Path, n_channels: int) -> dict[str, list[Path]]:
    """Find the cases in a folder by name; hidden files and folders are passed over.

    Models of several channels need ``NAME_0000``, ``NAME_0001``, ... For models of one, the whole name is the case's,
    as in ``OAS1_0001.mgz``; only where all NIfTI files of the folder end in ``_0000``, as nnU-Net's do, theirs ends
    before it.

    Raises:
        OSError: where the folder cannot be read.
        ValueError: where there are none, or cases that have not each channel once, naming their files.
    """
    files = [
        file
        for file in sorted(folder.iterdir())
        if file.name.endswith(ENDINGS) and not is_hidden(file) and not file.is_dir()
    ]
    if not files:
        raise ValueError(f"{folder} has no images ({', '.join(ENDINGS)})")
    cases: dict[str, list[tuple[int, Path]]] = {}
    for file, (name, channel) in zip(files, _names_and_channels(files, n_channels), strict=True):
        cases.setdefault(name, []).append((channel, file))
    wrong = [
        f"{name} ({', '.join(file.name for _, file in channels)})"
        for name, channels in cases.items()
        if not name or sorted(channel for channel, _ in channels) != list(range(n_channels))
    ]
    if wrong:
        wanted = (
            "1 channel, one file a case" if n_channels == 1 else f"{n_channels} channels, NAME_0000, NAME_0001, ..."
        )
        raise ValueError(f"the models take {wanted}; not so in {folder}: {first_few(wrong, _SHOWN)}")
    return {name: [file for _, file in sorted(channels)] for name, channels in cases.items()}


def _names_and_channels(files: Sequence[Path], n_channels: int) -> list[tuple[str, int]]:
    """Find the case and the channel of each file; the channel is -1 where a name has none and needs one."""
    stems = {file: next(file.name.removesuffix(end) for end in ENDINGS if file.name.endswith(end)) for file in files}
    if n_channels > 1:
        matches = [(stem, re.fullmatch(r"(.+)_([0-9]{4})", stem)) for stem in stems.values()]
        return [(match[1], int(match[2])) if match else (stem, -1) for stem, match in matches]
    of_nifti = {file: stem for file, stem in stems.items() if file.name.endswith(_NIFTI)}
    if all(stem.endswith("_0000") for stem in of_nifti.values()):
        stems |= {file: stem.removesuffix("_0000") for file, stem in of_nifti.items()}
    return [(stem, 0) for stem in stems.values()]


def predict_cases(models: TwoStage, input_folder: Path, output_folder: Path, overwrite: bool = True) -> list[str]:
    """Predict all cases of a folder. A case that fails is said on standard output, and the others go on.

    Args:
        overwrite: predict also what has a file in ``output_folder``.

    Returns:
        The names of the cases that failed.

    Raises:
        ValueError: for models or inputs that do not fit together, and for an output that would replace an input.
        OSError: where folders cannot be read or made.
    """
    n_channels = models.check()
    cases = cases_in_folder(input_folder, n_channels)
    output_folder.mkdir(parents=True, exist_ok=True)
    outputs = {name: output_folder / f"{name}.nii.gz" for name in cases}
    _check_outputs(cases, outputs, input_folder, output_folder)
    failed = []
    for name, files in cases.items():
        if outputs[name].is_file() and not overwrite:
            continue
        start = time.perf_counter()
        try:
            segmentation, remarks = models.segment(files)
            write_volume(on_grid_of(open_volume(files[0]), segmentation), outputs[name])
        except Exception as error:  # one odd file must not end the others' night
            failed.append(name)
            print(f"{printable(name)}: FAILED: {_message(error)}", flush=True)
        else:
            took = time.perf_counter() - start
            print(f"{printable(name)}: {printable(', '.join(remarks))}, {took:.1f} s", flush=True)
    return failed


def _check_outputs(
    cases: dict[str, list[Path]], outputs: dict[str, Path], input_folder: Path, output_folder: Path
) -> None:
    """Refuse what would write over an input, by whichever name or link it is reached."""
    if output_folder.samefile(input_folder):
        raise ValueError(f"-o {output_folder} is the folder of the images (-i); choose another for the segmentations")
    inputs = {_identity(file): file for files in cases.values() for file in files if file.exists()}
    for output in outputs.values():
        if output.exists() and _identity(output) in inputs:
            raise ValueError(f"{output} is the image {inputs[_identity(output)]}; choose another -o")


def _identity(file: Path) -> tuple[int, int]:
    information = file.stat()
    return information.st_dev, information.st_ino


def _message(error: Exception) -> str:
    text = printable(" ".join(str(error).split()))
    speaks = isinstance(error, OSError | ValueError | RuntimeError)  # of others the type says more than the text
    return text if text and speaks else f"{type(error).__name__}: {text}"
