"""Which predictions are compared with which references, found in folders as nnU-Net lays them out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunetv2.imageio.base_reader_writer import BaseReaderWriter

from ..files import is_hidden, read_json
from ..nnunet_folders import nnunet_folder
from ..results.folds import is_of_training_cases, validations
from ..results.model_names import spelled_out
from ..text import first_few
from .data_set import DataSet, name_in, read_data_set
from .measured_labels import Labels
from .probabilities import REMEDY


@dataclass(frozen=True)
class Pairing:
    """A folder of predictions and what it is compared with.

    Attributes:
        cases: reference and prediction by case, in the order of the files.
        output: folder for the results.
        training_cases: whether the predictions are of the cases that the model was trained on (``fold_all``).
        notes: what the reader of the means must know, as sentences without a full stop.
    """

    cases: dict[str, tuple[Path, Path]]
    reader: type[BaseReaderWriter]
    labels: Labels
    output: Path
    training_cases: bool = False
    notes: tuple[str, ...] = ()

    def probabilities(self, case: str) -> Path:
        """Tell where nnU-Net writes the probabilities of a case."""
        return self.cases[case][1].with_name(f"{case}.npz")


def from_folders(
    references: Path,
    predictions: Path,
    dataset_json: Path | None = None,
    plans: Path | None = None,
    output: Path | None = None,
) -> Pairing:
    """Pair all files of two folders.

    Args:
        dataset_json: None for the one that nnU-Net wrote beside the predictions, or the one above the references.
        plans: None for the one beside the predictions; without any, nnU-Net's defaults hold.
        output: None for the folder of the predictions.

    Raises:
        ValueError: a folder or ``dataset.json`` is missing, or a case is in one folder only (all of them are named).
    """
    references, predictions = spelled_out(references), spelled_out(predictions)  # they are recorded
    for folder in (references, predictions):
        if not folder.is_dir():
            raise ValueError(f"{folder} is no folder")
    places = [dataset_json] if dataset_json else [predictions / "dataset.json", references.parent / "dataset.json"]
    description = next((place for place in places if place.is_file()), None)
    if description is None:
        raise ValueError(f"there is no {' and no '.join(map(str, places))}; name the file with --dataset-json")
    if plans is None and (predictions / "plans.json").is_file():
        plans = predictions / "plans.json"
    data_set = read_data_set(description, plans)
    files = _files(references, data_set.ending)
    cases = _pair(files, _files(predictions, data_set.ending), files, references, predictions)
    return _pairing(data_set, cases, predictions, output or predictions)


def from_results(results: Path, output: Path | None = None) -> list[Pairing]:
    """Pair the validation of all folds of a trainer's results folder, or of the one fold that the folder is.

    ``fold_all`` is left out where there are others (``results.folds``); alone, its cases are training cases.

    The references are nnU-Net's, ``gt_segmentations`` in the preprocessed data; the cases that a fold must have are
    those of ``splits_final.json`` there.

    Args:
        output: None for the folders of the predictions; otherwise a folder that becomes
            ``fold_*/validation`` like the results.

    Raises:
        ValueError: for what is missing: files of nnU-Net, the validation of every fold, or cases (all are named); and
            for files of nnU-Net that cannot be understood.
    """
    results = spelled_out(results)
    top, folds = (results.parent, [results]) if results.name.startswith("fold_") else (results, _folds(results))
    for name in ("dataset.json", "plans.json"):
        if not (top / name).is_file():
            raise ValueError(
                f"{top} has no {name}, as a trainer's results do; to evaluate two folders, name both: REF_DIR PRED_DIR"
            )
    data_set = read_data_set(top / "dataset.json", top / "plans.json")
    preprocessed = nnunet_folder("nnUNet_preprocessed") / name_in(data_set.plans, "dataset_name", top / "plans.json")
    if not (preprocessed / "gt_segmentations").is_dir():
        raise ValueError(
            f"{preprocessed / 'gt_segmentations'} is no folder; nnU-Net's preprocessing (nnUNetv2_preprocess) writes "
            "the references there; or evaluate two folders: REF_DIR PRED_DIR"
        )
    references = _files(preprocessed / "gt_segmentations", data_set.ending)
    pairings, problems = [], []
    for fold in folds:
        validation = fold / "validation"
        try:
            expected = _expected(fold, preprocessed, references)
            found = _files(validation, data_set.ending)
            cases = _pair(references, found, expected, preprocessed, validation)
        except ValueError as error:
            problems.append(str(error))
            continue
        folder = output / fold.name / "validation" if output else validation
        pairings.append(_pairing(data_set, cases, validation, folder))
    if problems:
        raise ValueError("; ".join(problems))
    return pairings


def check_probabilities(pairings: Iterable[Pairing]) -> None:
    """Check that nnU-Net has written the probabilities of every case.

    Raises:
        ValueError: naming files that are missing.
    """
    files = [pairing.probabilities(case) for pairing in pairings for case in pairing.cases]
    if missing := [file for file in files if not file.exists()]:
        raise ValueError(f"no probabilities of {len(missing)} cases: there is no {first_few(missing, 3)}; {REMEDY}")


def shared_cases(pairings: Iterable[Pairing]) -> str | None:
    """Write of cases that several folds have, if any: ``splits_final.json`` overlaps, or was changed."""
    folds: dict[str, list[str]] = {}
    for pairing in pairings:
        for case in pairing.cases:
            folds.setdefault(case, []).append(pairing.output.parent.name)
    shared = {case: found for case, found in folds.items() if len(found) > 1}
    if not shared:
        return None
    named = first_few(f"{case} ({', '.join(found)})" for case, found in shared.items())
    return (
        f"{len(shared)} of the cases are validated by more than one fold: {named}. In the means above "
        "the mean of its folds stands for such a case; compare refuses the folder, because a case belongs in one fold "
        "only. See splits_final.json"
    )


def _pairing(data_set: DataSet, cases: dict[str, tuple[Path, Path]], predictions: Path, output: Path) -> Pairing:
    reader, notes = data_set.reader([reference for reference, _ in cases.values()])
    notes = (*data_set.labels.contradictions, *notes)
    return Pairing(cases, reader, data_set.labels, output, is_of_training_cases(predictions), notes)


def _folds(results: Path) -> list[Path]:
    folds = [folder.parent for folder in validations(results)]
    if not folds:
        raise ValueError(
            f"{results} has no fold_*/validation; let nnU-Net predict the validation cases (nnUNetv2_train ... --val), "
            "or evaluate two folders: REF_DIR PRED_DIR"
        )
    return folds


def _expected(fold: Path, preprocessed: Path, references: dict[str, Path]) -> Iterable[str]:
    """Find the validation cases of a fold."""
    name = fold.name.removeprefix("fold_")
    if name == "all":
        return references
    splits = preprocessed / "splits_final.json"
    if not splits.is_file():
        raise ValueError(f"{splits} is missing, which says what cases {fold} must have")
    content = read_json(splits)
    if not isinstance(content, list):
        raise ValueError(f"{splits} must hold a list with an object for each fold")
    if not name.isdecimal() or int(name) >= len(content):
        raise ValueError(
            f"{splits} has no fold {name}, so that the cases of {fold} are not known; move it away, name the "
            "folder of another fold, or give PRED_DIR and a REF_DIR of its cases alone"
        )
    cases = content[int(name)].get("val") if isinstance(content[int(name)], dict) else None
    if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
        raise ValueError(f"{splits}: fold {name} must have a list of cases under 'val'")
    return cases


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """Find the files by case, in nnU-Net's order, without hidden ones, as macOS leaves beside others."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    files = [file for file in sorted(folder.iterdir()) if file.name.endswith(ending) and not is_hidden(file)]
    return {file.name.removesuffix(ending): file for file in files}


def _pair(
    references: dict[str, Path],
    predictions: dict[str, Path],
    expected: Iterable[str],
    reference_folder: Path,
    prediction_folder: Path,
) -> dict[str, tuple[Path, Path]]:
    """Pair the expected cases, if there are both files of all and no further prediction."""
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
