"""FreeSurfer subjects to a raw nnU-Net data set."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import nibabel
import numpy as np
from tqdm import tqdm

from ..files import is_hidden, read_json, write_json
from ..text import printable
from .roi import box_of_size, largest_parts
from .structures import HIPPOCAMPI, TASKS, Task, both_sides, classes_from_ids
from .subjects import Subject, find_subjects
from .volumes import ORIENTATION, conformed, label_voxels, nifti, read_volume, voxels, write_volume

SETTINGS_FILE = "convert_freesurfer.json"


def convert(
    subjects_dir: Path,
    dataset: Path,
    task: str,
    image: str,
    subfields_pattern: str,
    names: Sequence[str] | None = None,
    strict: bool = False,
    processes: int = 1,
) -> None:
    """Write the data set. What an earlier, interrupted run has written of the same files is kept.

    Args:
        dataset: the folder ``DatasetXXX_NAME`` in ``nnUNet_raw``.
        task: key of ``structures.TASKS``.
        image, subfields_pattern, names: see ``subjects.find_subjects``.
        strict: structures that a subject lacks are an error, not a warning.

    Raises:
        ValueError: for subjects that cannot be converted, all of them; for a folder with another conversion.
        OSError: where files cannot be written.
    """
    chosen = TASKS[task]
    subjects = find_subjects(subjects_dir, names, image, None if chosen.box_mm is None else subfields_pattern)
    settings = {"subjects_dir": str(subjects_dir.resolve()), "task": task, "image": image}
    if chosen.box_mm is not None:
        settings["subfields_pattern"] = subfields_pattern
    _check_settings(dataset, settings)
    for folder in ("imagesTr", "labelsTr", "sources"):
        (dataset / folder).mkdir(exist_ok=True)

    lacking: dict[str, list[str]] = {}
    problems = []
    for subject, result in zip(subjects, _convert_all(subjects, chosen, dataset, processes), strict=True):
        if isinstance(result, str):
            problems.append(f"{subject.name}: {result}")
        else:
            for name in result:
                lacking.setdefault(name, []).append(subject.name)
    if problems:
        raise ValueError(f"{len(problems)} of {len(subjects)} subjects cannot be converted: " + "; ".join(problems))
    _report(lacking, len(subjects))
    if lacking and strict:
        raise ValueError(f"{len(lacking)} structures are missing in some subjects (see above; --strict is set)")
    cases = [file for file in (dataset / "labelsTr").glob("*.nii.gz") if not is_hidden(file)]
    write_json(dataset / "dataset.json", dataset_json(chosen, len(cases)))


def dataset_json(task: Task, n_cases: int) -> dict:
    """Make nnU-Net's ``dataset.json``, with ``freesurfer_ids``, ``orientation``, ``roi_box_mm``, which it ignores."""
    document = {
        "channel_names": {"0": "rescale_to_0_1"},  # nnU-Net chooses the normalisation by this name
        "labels": {"background": 0, **{name: label for label, name in enumerate(task.structures.values(), 1)}},
        "numTraining": n_cases,
        "file_ending": ".nii.gz",
        "freesurfer_ids": {name: number for number, name in task.structures.items()},
        "orientation": ORIENTATION,
    }
    if task.box_mm is not None:
        document["roi_box_mm"] = [task.box_mm] * 3
    return document


def _convert_all(subjects: Sequence[Subject], task: Task, dataset: Path, processes: int) -> Iterator[list[str] | str]:
    work = partial(_convert_or_explain, task=task, dataset=dataset)
    progress = partial(tqdm, total=len(subjects), desc="convert", unit="subject")
    if processes == 1:
        yield from progress(map(work, subjects))
        return
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from progress(pool.map(work, subjects))
    except BrokenProcessPool as error:
        raise OSError("a process was ended from outside (memory?); run again, with a smaller -np") from error


def _convert_or_explain(subject: Subject, task: Task, dataset: Path) -> list[str] | str:
    """Convert a subject; give the structures that it lacks, or what is wrong with it."""
    try:
        return convert_subject(subject, task, dataset)
    except ValueError as error:
        return str(error)


def convert_subject(subject: Subject, task: Task, dataset: Path) -> list[str]:
    """Write a subject's image, then its labels, then what they were made of, unless all are there and it is the same.

    Returns:
        The names of the structures that the subject lacks.

    Raises:
        ValueError: for files that are damaged, no labels, or without hippocampi to crop to.
    """
    image_file = dataset / "imagesTr" / f"{subject.name}_0000.nii.gz"
    label_file = dataset / "labelsTr" / f"{subject.name}.nii.gz"
    record, sources = dataset / "sources" / f"{subject.name}.json", _sources(subject)
    if image_file.is_file() and label_file.is_file() and _is_record_of(record, sources):
        return _lacking(voxels(read_volume(label_file)), task)
    record.unlink(missing_ok=True)
    image = conformed(_image(subject.image), order=1)
    affine, array = image.affine, voxels(image)
    aseg = _labels(subject.aseg)
    if task.box_mm is None:
        classes = classes_from_ids(aseg, task)
    else:
        classes = classes_from_ids(both_sides(*map(_labels, subject.subfields)), task)
        hippocampi = largest_parts(aseg, HIPPOCAMPI)
        if not hippocampi.any():
            raise ValueError(f"{subject.aseg} has no hippocampus (ids {', '.join(map(str, HIPPOCAMPI))})")
        box = box_of_size(hippocampi, [task.box_mm] * 3)
        affine, array, classes = image.slicer[box].affine, array[box], classes[box]
    write_volume(nifti(array, affine), image_file)
    write_volume(nifti(classes, affine), label_file)
    write_json(record, sources)
    return _lacking(classes, task)


def _sources(subject: Subject) -> dict[str, list[int]]:
    """Record size and time of the subject's files, by which a change is told."""
    files = [file.resolve() for file in (subject.image, subject.aseg, *subject.subfields)]
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _is_record_of(record: Path, sources: dict) -> bool:
    try:
        return read_json(record) == sources
    except (FileNotFoundError, ValueError):  # none yet, or damaged, by whatever: the subject is converted again
        return False


def _image(file: Path) -> nibabel.Nifti1Image:
    """Read an image, 0 for what is not finite, as ITK reads NIfTI: a NaN would spread over all that is resampled."""
    volume = read_volume(file)
    array = voxels(volume)
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0, posinf=0, neginf=0)
    return nifti(array, volume.affine)


def _labels(file: Path) -> np.ndarray:
    volume = read_volume(file)
    return voxels(conformed(nifti(label_voxels(volume), volume.affine), order=0))


def _lacking(classes: np.ndarray, task: Task) -> list[str]:
    present = set(np.unique(classes).tolist())
    return [name for label, name in enumerate(task.structures.values(), 1) if label not in present]


def _report(lacking: dict[str, list[str]], n_subjects: int) -> None:
    if not lacking:
        print(f"{n_subjects} subjects, all structures present")
        return
    print(f"{n_subjects} subjects; WARNING, structures that some of them lack:")
    for name, subjects in lacking.items():
        shown = "all" if len(subjects) == n_subjects else printable(", ".join(subjects))
        print(f"  {name:32s} missing in {len(subjects):4d}: {shown}")


def _check_settings(dataset: Path, settings: dict) -> None:
    file = dataset / SETTINGS_FILE
    if file.exists():
        earlier = read_json(file)
        if earlier != settings:
            raise ValueError(
                f"{dataset} was converted with {earlier}, now it is {settings}; remove it or choose another -d"
            )
        return
    if dataset.exists() and any(not is_hidden(entry) for entry in dataset.iterdir()):
        raise ValueError(f"{dataset} has files that convert-freesurfer has not written; remove it or choose another -d")
    dataset.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)
