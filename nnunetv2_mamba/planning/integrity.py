"""nnU-Net's integrity check of a data set, case by case, what it prints made one line that names the case."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
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
from nnunetv2_mamba.text import listed, printable

from .dataset_checks import channel_names, label_manager
from .raw_files import Case

_SHOWN = 10


def check_integrity(cases: Mapping[str, Case], description: dict[str, Any], folder: Path, processes: int) -> None:
    """What ``nnUNetv2_plan_and_preprocess --verify_dataset_integrity`` checks of files: each label map's values, and
    shape, spacing, channels and NaN of each case. Also what it lets pass and fails with later: files cut short,
    infinite values, label maps of several channels, images of four axes. Prints nnU-Net's warnings (origins and
    directions that differ).

    Raises:
        ValueError: naming the first case that fails, how, and the others.
    """
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
        also = f" (and {len(others)} more cases fail: {listed(others, _SHOWN)})" if others else ""
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
            read_once = _ReadOnce(reader, case)
            problem = _channels_of_labels(case.label, read_once)
            if problem is None and not verify_labels(str(case.label), read_once, labels):
                problem = _unknown_values(case.label, read_once, labels)
            problem = problem or _axes_of_images(case.images, read_once)
            if problem:
                return problem, ""
            good = check_cases([str(image) for image in case.images], str(case.label), n_channels, read_once)
        except Exception as error:  # what a reader raises depends on the format's library
            return _one_line(f"{printed.getvalue()} {error}") or type(error).__name__, ""
    text = _one_line(printed.getvalue())
    problem = _infinite_values(case.images, read_once) if good else text
    return problem, "" if problem else text


class _ReadOnce:
    """A case as nnU-Net's reader gives it; nnU-Net's checks, each of which would read it anew, get it as the reader's
    class."""

    def __init__(self, reader: type[BaseReaderWriter], case: Case):
        self.labels, self.images = reader().read_seg(str(case.label)), None
        self._read_images = reader().read_images

    def __call__(self) -> _ReadOnce:
        return self

    def read_seg(self, _: str) -> tuple[np.ndarray, dict]:
        return self.labels

    def read_images(self, files: list[str]) -> tuple[np.ndarray, dict]:
        if self.images is None:
            self.images = self._read_images(files)
        return self.images


def _channels_of_labels(file: Path, case: _ReadOnce) -> str | None:
    """nnU-Net preprocesses them all, and trains with the first one or with their sum."""
    n_channels = len(case.labels[0])
    if n_channels == 1:
        return None
    return f"{file} has {n_channels} channels, a label map has one: write a mask in colours as a grey one"


def _axes_of_images(files: Sequence[Path], case: _ReadOnce) -> str | None:
    """nnU-Net trains with them, and fails when it writes the first segmentation."""
    _, properties = case.read_images([str(file) for file in files])
    n_axes = len(properties.get("sitk_stuff", properties)["spacing"])
    if n_axes <= 3:
        return None
    return (
        f"{files[0]} has {n_axes} axes: nnU-Net reads them as channels, but cannot write a segmentation of such an "
        "image; write each channel as a file of its own, CASE_0000, CASE_0001, ..."
    )


def _infinite_values(files: Sequence[Path], case: _ReadOnce) -> str | None:
    """After normalisation the whole channel is NaN or, where it is a CT, that of every case."""
    images, _ = case.images
    channel = next((channel for channel, image in enumerate(images) if np.isinf(image).any()), None)
    if channel is None:
        return None
    file = files[channel] if len(files) == len(images) else files[0]
    return f"{file} has values that are infinite, or too large for 32 bits; replace them with what makes sense there"


def _unknown_values(file: Path, case: _ReadOnce, labels: list[int]) -> str:
    found = np.unique(case.labels[0])
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
