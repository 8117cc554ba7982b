"""Which predictions are compared with which references, found in folders as nnU-Net lays them out."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from .folds import is_of_training_cases, validations
from .labels import Labels, read_labels


@dataclass(frozen=True)
class Pairing:
    """A folder of predictions and what it is compared with.

    Attributes:
        cases: reference and prediction by case, in the order of the files.
        ending: of the files.
        output: folder for the results.
        training_cases: whether the predictions are of the cases that the model was trained on (``fold_all``).
    """

    cases: dict[str, tuple[Path, Path]]
    ending: str
    reader: type[BaseReaderWriter]
    labels: Labels
    output: Path
    training_cases: bool = False


def from_folders(
    references: Path,
    predictions: Path,
    dataset_json: Path | None = None,
    plans: Path | None = None,
    output: Path | None = None,
) -> Pairing:
    """All files of two folders.

    Args:
        dataset_json: None for the one that nnU-Net wrote beside the predictions, or the one above the references.
        plans: None for the one beside the predictions; without any, nnU-Net's defaults hold.
        output: None for the folder of the predictions.

    Raises:
        ValueError: a folder or ``dataset.json`` is missing, or a case is in one folder only (all of them are named).
    """
    for folder in (references, predictions):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
    places = [dataset_json] if dataset_json else [predictions / "dataset.json", references.parent / "dataset.json"]
    description = next((place for place in places if place.is_file()), None)
    if description is None:
        raise ValueError(f"there is no {' and no '.join(map(str, places))}; name the file with --dataset-json")
    if plans is None and (predictions / "plans.json").is_file():
        plans = predictions / "plans.json"
    ending, labels, manager = _describe(description, plans)
    files = _files(references, ending)
    cases = _pair(files, _files(predictions, ending), files, references, predictions)
    reader = _reader(description, manager, cases)
    return Pairing(cases, ending, reader, labels, output or predictions, is_of_training_cases(predictions))


def from_results(results: Path, output: Path | None = None) -> list[Pairing]:
    """The validation of all folds of a trainer's results folder, or of the one fold that the folder is.

    ``fold_all`` is left out where there are others (``folds``); alone, its cases are training cases.

    The references are nnU-Net's, ``gt_segmentations`` in the preprocessed data; the cases that a fold must have are
    those of ``splits_final.json`` there.

    Args:
        output: None for the folders of the predictions; otherwise a folder that becomes
            ``fold_*/validation`` like the results.

    Raises:
        ValueError: for what is missing: files of nnU-Net, the validation of every fold, or cases (all are named).
    """
    top, folds = (results.parent, [results]) if results.name.startswith("fold_") else (results, _folds(results))
    for name in ("dataset.json", "plans.json"):
        if not (top / name).is_file():
            raise ValueError(
                f"{top} has no {name}, as a trainer's results do; to evaluate two folders, name both: REF_DIR PRED_DIR"
            )
    ending, labels, manager = _describe(top / "dataset.json", top / "plans.json")
    base = os.environ.get("nnUNet_preprocessed")
    if not base:
        raise ValueError("nnUNet_preprocessed is not set, where the references of a validation are; set it")
    preprocessed = Path(base) / manager.dataset_name
    references = _files(preprocessed / "gt_segmentations", ending)
    pairings, problems = [], []
    for fold in folds:
        validation = fold / "validation"
        try:
            expected = _expected(fold, preprocessed, references)
            cases = _pair(references, _files(validation, ending), expected, preprocessed, validation)
        except ValueError as error:
            problems.append(str(error))
            continue
        folder = output / fold.name / "validation" if output else validation
        reader = _reader(top / "dataset.json", manager, cases)
        pairings.append(Pairing(cases, ending, reader, labels, folder, is_of_training_cases(validation)))
    if problems:
        raise ValueError("; ".join(problems))
    return pairings


def _describe(dataset_json: Path, plans: Path | None) -> tuple[str, Labels, PlansManager | None]:
    """The files' ending, the labels, and the plans."""
    try:
        description = load_json(str(dataset_json))
        manager = None if plans is None else PlansManager(str(plans))
        return description["file_ending"], read_labels(description, manager), manager
    except KeyError as error:
        raise ValueError(f"{dataset_json} has no {error}") from error


def _reader(dataset_json: Path, plans: PlansManager | None, cases: dict) -> type[BaseReaderWriter]:
    if plans is not None:
        return plans.image_reader_writer_class
    example = str(next(iter(cases.values()))[0])
    try:
        return determine_reader_writer_from_dataset_json(load_json(str(dataset_json)), example, verbose=False)
    except RuntimeError as error:
        raise ValueError(f"{dataset_json}: {error}") from error


def _folds(results: Path) -> list[Path]:
    folds = [folder.parent for folder in validations(results)]
    if not folds:
        raise ValueError(
            f"{results} has no fold_*/validation; let nnU-Net predict the validation cases (nnUNetv2_train ... --val), "
            "or name two folders: REF_DIR PRED_DIR"
        )
    return folds


def _expected(fold: Path, preprocessed: Path, references: dict[str, Path]) -> Iterable[str]:
    """The validation cases of a fold."""
    name = fold.name.removeprefix("fold_")
    if name == "all":
        return references
    splits = preprocessed / "splits_final.json"
    if not splits.is_file():
        raise ValueError(f"{splits} is missing, which says what cases {fold} must have")
    content = load_json(str(splits))
    if not name.isdigit() or int(name) >= len(content):
        raise ValueError(
            f"{splits} has no fold {name}, so that the cases of {fold} are not known; name REF_DIR PRED_DIR"
        )
    return content[int(name)]["val"]


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Files by case, in nnU-Net's order."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    return {file.name.removesuffix(ending): file for file in sorted(folder.iterdir()) if file.name.endswith(ending)}


def _pair(
    references: dict[str, Path],
    predictions: dict[str, Path],
    expected: Iterable[str],
    reference_folder: Path,
    prediction_folder: Path,
) -> dict[str, tuple[Path, Path]]:
    """Reference and prediction of the expected cases, if there are both of all and no further prediction."""
    problems = {
        f"no reference in {reference_folder} for": sorted({*expected, *predictions} - {*references}),
        f"no prediction in {prediction_folder} for": sorted({*expected} - {*predictions}),
        f"{prediction_folder} has predictions of other cases:": sorted({*predictions} & {*references} - {*expected}),
    }
    if any(problems.values()):
        raise ValueError("; ".join(f"{text} {', '.join(cases)}" for text, cases in problems.items() if cases))
    if not predictions:
        raise ValueError(f"{prediction_folder} has no predictions")
    return {case: (references[case], file) for case, file in predictions.items()}
