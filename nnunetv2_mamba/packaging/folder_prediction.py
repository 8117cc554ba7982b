"""A folder of images predicted one after another in this process, what the verb ``predict`` does."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import SimpleITK

from ..evaluation.measured_labels import Labels
from ..files import write_json
from ..nnunet.model_folds import find_folds
from .case_predictor import CasePredictor
from .case_writing import volumes_ml
from .container import segment_cases
from .image_io import check_writable
from .inference_settings import Choices, MemberChoices
from .model_content import calibrated_temperature
from .model_source import open_model
from .outputs import NPZ, PROBABILITY, PROPERTIES, Output
from .platforms import CaseFiles
from .platforms.numbered_cases import numbered_cases

_IN_TWO_FILES = (".mhd", ".nhdr", ".hdr", ".img")  # of which only the named one would get its final name


def predict_folder(
    models: Sequence[Path],
    input_folder: Path,
    output_folder: Path,
    choices: Choices,
    device: str,
    folds: Sequence[str] | None = None,
    overwrite: bool = True,
    previous_folder: Path | None = None,
    calibrated: bool = False,
    probabilities: str | None = None,
    volumes: bool = False,
    for_nnunet: bool = False,
) -> int:
    """Predict all cases of a folder as ``nnUNetv2_predict`` and return the exit code, 1 where one failed.

    The first model's ``dataset.json`` and ``plans.json`` go to the output too, where nnU-Net's postprocessing looks for
    them.

    Args:
        models: folders or ZIPs, as of ``open_model``; the predictions of several are averaged.
        choices: how they are run; its ``folds`` and ``members`` are not used.
        device: ``cuda``, ``cpu`` or ``mps``.
        folds: as of ``find_folds``, of each model.
        overwrite: predict also what ``output_folder`` has.
        previous_folder: has the cases as the first model of a cascade segmented them, where the model is the second.
        calibrated: whether each model has its temperature, as of ``calibrated_temperature``.
        probabilities: of ``outputs.ENCODINGS``, for a map of every label or region in
            ``output_folder/probabilities/LABEL``; None for none.
        for_nnunet: write ``CASE.npz`` and ``CASE.pkl`` as nnU-Net's ``--save_probabilities``.
        volumes: write ``output_folder/volumes.json``, of all cases that have a segmentation there.

    Raises:
        OSError, ValueError, pickle.UnpicklingError: for a model that cannot be used, folders that cannot be read or
            written, and outputs that would replace an input.
    """
    sources = [open_model(model) for model in models]
    members = []
    for model, source in zip(models, sources, strict=True):
        found = find_folds(source, folds, choices.checkpoint)
        temperature = calibrated_temperature(source, found, choices.checkpoint) if calibrated else 1.0
        members.append(MemberChoices(str(model), found, temperature))
    choices = replace(choices, members=tuple(members))
    check_writable(output_folder)
    progress = sys.stderr.isatty()
    predictor = CasePredictor(sources, choices, device, names=models, scratch=output_folder, progress=progress)
    loaded = predictor.model
    reader = loaded.plans.image_reader_writer_class
    if ".nii.gz" not in reader.supported_file_endings:
        raise ValueError(
            f"{models[0]} is of images that nnU-Net's {reader.__name__} reads; use nnUNetv2_predict for them"
        )
    ending = loaded.dataset["file_ending"]
    if ending.endswith(_IN_TWO_FILES):
        raise ValueError(f"{models[0]} is of {ending}, images in two files each; use nnUNetv2_predict for them")
    cases = numbered_cases(input_folder, output_folder, loaded.n_channels, ending)
    if previous_folder is not None:
        cases = [replace(case, previous=previous_folder / case.output.name) for case in cases]
    _check_outputs(cases)
    for name, document in (("dataset", loaded.dataset), ("plans", loaded.plans.plans)):
        write_json(output_folder / f"{name}.json", document)
    if for_nnunet:
        cases = [_with_nnunets_files(case) for case in cases]
    if probabilities is not None:
        cases = [_with_maps(case, predictor.labels, output_folder / "probabilities", probabilities) for case in cases]
    left = [case for case in cases if overwrite or not all(file.is_file() for file in case.files)]
    failures = segment_cases(left, predictor, time.perf_counter())
    if volumes:
        segmented = [case for case in cases if case.output.is_file()]
        table = {case.name: volumes_ml(SimpleITK.ReadImage(case.output), predictor.labels) for case in segmented}
        write_json(output_folder / "volumes.json", table)
    return 1 if failures else 0


def _with_maps(case: CaseFiles, labels: Labels, folder: Path, encoding: str) -> CaseFiles:
    """The case with a probability map of every label; folders of the labels, so that no map is taken for a case."""
    names = [re.sub(r"[^\w+.-]|^\.", "_", label.name) for label in labels.measured]
    if len({name.casefold() for name in names}) < len(names):  # also where file systems tell no case
        listed = ", ".join(sorted(names))
        raise ValueError(f"labels whose names differ in signs or case only, as folders: {listed}; rename one")
    maps = [
        Output(PROBABILITY, folder / name / f"{case.name}.nii.gz", label.name, encoding)
        for name, label in zip(names, labels.measured, strict=True)
    ]
    return replace(case, more_outputs=(*case.more_outputs, *maps))


def _with_nnunets_files(case: CaseFiles) -> CaseFiles:
    if case.problem:  # it may have no output, beside which they would lie
        return case
    files = [
        Output(kind, case.output.with_name(f"{case.name}.{ending}"))
        for kind, ending in ((NPZ, "npz"), (PROPERTIES, "pkl"))
    ]
    return replace(case, more_outputs=(*case.more_outputs, *files))


def _check_outputs(cases: Sequence[CaseFiles]) -> None:
    images = {image.resolve() for case in cases for image in case.images}
    previous = {case.previous.resolve() for case in cases if case.previous}
    for case in cases:
        if case.output.resolve() in images:
            raise ValueError(f"{case.output} is an image of the input; choose another -o")
        if case.output.resolve() in previous:
            raise ValueError(f"{case.output} is a segmentation of -prev_stage_predictions; choose another -o")
