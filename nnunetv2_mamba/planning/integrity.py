"""nnU-Net's integrity check of a data set, case by case, what it prints made one line that names the case."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases, verify_labels
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

from nnunetv2_mamba.image_files import check_complete
from nnunetv2_mamba.text import printable

from .dataset_checks import channel_names, label_manager
from .raw_files import Case

_SHOWN = 10


def check_integrity(cases: Mapping[str, Case], description: dict[str, Any], folder: Path, processes: int) -> None:
    """What ``nnUNetv2_plan_and_preprocess --verify_dataset_integrity`` checks: the number of cases, each label map's
    values, and shape, spacing, channels and NaN of each case. Also that no file is cut short. Prints nnU-Net's
    warnings (origins and directions that differ).

    Raises:
        ValueError: naming the first case that fails, how, and the others.
    """
    expected = description["numTraining"]
    if len(cases) != expected:
        raise ValueError(
            f"{folder / 'dataset.json'}, numTraining: it is {expected}, but there are {len(cases)} cases "
            f"({', '.join(list(cases)[:3])}, ...); correct the number, or add what is missing"
        )
    examine = partial(
        _examine,
        reader=_reader(next(iter(cases.values())).images[0], description),
        n_channels=len(channel_names(description)),
        labels=_label_values(description),
    )
    failed = []
    for name, (problem, notes) in zip(cases, _map(examine, list(cases.values()), processes), strict=True):
        if notes:
            print(printable(f"{name}: {notes}"))
        if problem:
            failed.append((name, problem))
    if failed:
        others = [name for name, _ in failed[1:]]
        shown = ", ".join(others[:_SHOWN]) + (", ..." if len(others) > _SHOWN else "")
        also = f" (and {len(others)} more cases fail: {shown})" if others else ""
        raise ValueError(f"case {failed[0][0]} of {folder}: {failed[0][1]}{also}")


def _label_values(description: dict[str, Any]) -> list[int]:
    manager = label_manager(description)
    return [int(value) for value in [*manager.all_labels, manager.ignore_label] if value is not None]


def _reader(example: Path, description: dict[str, Any]) -> type[BaseReaderWriter]:
    check_complete(example)
    with _captured() as printed:
        try:
            return determine_reader_writer_from_dataset_json(description, str(example), verbose=False)
        except RuntimeError as error:
            reason = printed.getvalue().strip().rpartition("\n")[2] or str(error)
    raise ValueError(f"{example} cannot be read as an image: {reason}")


def _map(examine: Callable[[Case], Any], cases: list[Case], processes: int) -> list[Any]:
    if processes == 1:  # a process of its own would import torch first
        return [examine(case) for case in cases]
    try:
        with ProcessPoolExecutor(min(processes, len(cases)), get_context("spawn")) as pool:
            return list(pool.map(examine, cases))
    except BrokenProcessPool as error:
        raise ValueError("a process that checks cases was killed; if memory ran out, use fewer with -np") from error


def _examine(case: Case, reader: type[BaseReaderWriter], n_channels: int, labels: list[int]) -> tuple[str | None, str]:
    """What is wrong with a case, and what nnU-Net warns of."""
    with _captured() as printed:
        try:
            for file in (*case.images, case.label):
                check_complete(file)
            if not verify_labels(str(case.label), reader, labels):
                return _unknown_values(case.label, reader, labels), ""
            good = check_cases([str(image) for image in case.images], str(case.label), n_channels, reader)
        except Exception as error:  # what a reader raises depends on the format's library
            return _one_line(f"{printed.getvalue()} {error}") or type(error).__name__, ""
    text = _one_line(printed.getvalue())
    return (None, text) if good else (text, "")


def _unknown_values(file: Path, reader: type[BaseReaderWriter], labels: list[int]) -> str:
    found = np.unique(reader().read_seg(str(file))[0])
    unknown = [value for value in found if value not in labels]  # float32, as nnU-Net's readers give it
    shown = ", ".join(f"{value:.0f}" if value == np.round(value) else str(value) for value in unknown[:_SHOWN])
    whole = np.array_equal(unknown, np.round(unknown))
    return (
        f"{file} has the value {shown}{', ...' if len(unknown) > _SHOWN else ''}, which dataset.json does not list "
        f"({', '.join(map(str, labels))}); "
        + ("correct the file or dataset.json" if whole else "labels must be whole numbers: round them")
    )


@contextlib.contextmanager
def _captured():
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text


def _one_line(text: str) -> str:
    return " ".join(text.split())
