"""FreeSurfer subjects to a raw nnU-Net data set."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .labels import HIPPOCAMPI, TASKS, Task, both_sides, classes_from_ids
from .roi import box_of_size, largest_parts
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
        task: key of ``labels.TASKS``.
        image, subfields_pattern, names: see ``subjects.find_subjects``.
        strict: structures that a subject lacks are an error, not a warning.

    Raises:
        ValueError: for subjects that cannot be converted, all of them; for a folder with another conversion.
        OSError: where files cannot be written.
    """
    chosen = TASKS[task]
    subjects = find_subjects(subjects_dir, names, image, None if chosen.box_mm is None else subfields_pattern)
    for folder in ("imagesTr", "labelsTr", "sources"):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
    settings = {"subjects_dir": str(subjects_dir.resolve()), "task": task, "image": image}
    if chosen.box_mm is not None:
        settings["subfields_pattern"] = subfields_pattern
    _check_settings(dataset / SETTINGS_FILE, settings)

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
    _write_json(dataset / "dataset.json", dataset_json(chosen, len(list((dataset / "labelsTr").glob("*.nii.gz")))))


def dataset_json(task: Task, n_cases: int) -> dict:
    """nnU-Net's, with three keys that it ignores: ``freesurfer_ids``, ``orientation`` and, of crops, ``roi_box_mm``."""
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
    work = partial(_convert_or_say_why_not, task=task, dataset=dataset)
    progress = partial(tqdm, total=len(subjects), desc="convert", unit="subject")
    if processes == 1:
        yield from progress(map(work, subjects))
        return
    try:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            yield from progress(pool.map(work, subjects))
    except BrokenProcessPool as error:
        raise OSError("a process was ended from outside (memory?); run again, with a smaller -np") from error


def _convert_or_say_why_not(subject: Subject, task: Task, dataset: Path) -> list[str] | str:
    """The structures that the subject lacks, or what is wrong with it."""
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
    if image_file.is_file() and label_file.is_file() and record.is_file():
        if json.loads(record.read_text(encoding="utf-8")) == sources:
            return _lacking(voxels(read_volume(label_file)), task)
    record.unlink(missing_ok=True)
    image = conformed(read_volume(subject.image), order=1)
    affine, array = image.affine, voxels(image)
    aseg = _labels(subject.aseg)
    if task.box_mm is None:
        classes = classes_from_ids(aseg, task)
    else:
        classes = classes_from_ids(both_sides(*map(_labels, subject.subfields)), task)
        hippocampi = largest_parts(aseg, list(HIPPOCAMPI))
        if not hippocampi.any():
            raise ValueError(f"{subject.aseg} has no hippocampus (ids {', '.join(map(str, HIPPOCAMPI))})")
        box = box_of_size(hippocampi, [task.box_mm] * 3)
        affine, array, classes = image.slicer[box].affine, array[box], classes[box]
    write_volume(nifti(array, affine), image_file)
    write_volume(nifti(classes, affine), label_file)
    _write_json(record, sources)
    return _lacking(classes, task)


def _sources(subject: Subject) -> dict[str, list[int]]:
    """Size and time of the subject's files, by which a change is told."""
    files = [file.resolve() for file in (subject.image, subject.aseg, *subject.subfields)]
    return {str(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}


def _labels(file: Path) -> np.ndarray:
    volume = read_volume(file)
    label_voxels(volume)  # refuses what resampling would round
    return label_voxels(conformed(volume, order=0))


def _lacking(classes: np.ndarray, task: Task) -> list[str]:
    present = set(np.unique(classes).tolist())
    return [name for label, name in enumerate(task.structures.values(), 1) if label not in present]


def _report(lacking: dict[str, list[str]], n_subjects: int) -> None:
    if not lacking:
        print(f"{n_subjects} subjects, all structures present")
        return
    print(f"{n_subjects} subjects; WARNING, structures that some of them lack:")
    for name, subjects in lacking.items():
        shown = "all" if len(subjects) == n_subjects else ", ".join(subjects)
        print(f"  {name:32s} missing in {len(subjects):4d}: {shown}")


def _check_settings(file: Path, settings: dict) -> None:
    if file.exists():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        if earlier != settings:
            raise ValueError(
                f"{file.parent} was converted with {earlier}, now it is {settings}; remove it or choose another -d"
            )
    else:
        _write_json(file, settings)


def _write_json(file: Path, content: dict) -> None:
    partial_file = file.with_name(f"{file.name}.partial")
    partial_file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial_file.replace(file)
