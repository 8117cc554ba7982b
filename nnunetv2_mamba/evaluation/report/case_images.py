"""Which cases are shown, and where their files are."""

from __future__ import annotations

import os
from pathlib import Path

from ...regions import values_of
from ..comparison import Comparison
from ..evaluated_model import Repetitions
from ..metrics import METRICS
from .html import Illustration, Section
from .overlays import ShownCase, overlay
from .style import COLOURS

_TITLE = "Worst, median and best case"


def section_of_cases(
    comparison: Comparison, models: Repetitions, images: Path | None, references: Path | None
) -> Section:
    """Draw the cases, by the mean over the models of the first metric, or say what is missing.

    Args:
        images: folder with images in nnU-Net's naming; None for that of the data set in nnUNet_raw.
        references: folder with references; None for those that the evaluation read.

    Raises:
        ValueError: if a folder that the user named lacks a file.
    """
    items = comparison.of(comparison.metrics[0])
    if not items:
        return Section(_TITLE, ("No cases: nothing was compared.",))
    values = items[0].values
    metric = METRICS[items[0].metric]
    sign = -1 if metric.lower_is_better else 1
    illustrations = []
    for kind, name in extremes((sign * values.mean(axis=1)).to_dict()).items():
        try:
            case = _files(name, models, images, references)
            labels = _labels(models)
            captions = {title: metric.number(values.loc[name, title]) for title in comparison.names}
            figure, alt = overlay(case, labels, captions)
        except ValueError as error:
            if images or references:
                raise
            return Section(_TITLE, (f"No images: {error}. --images and --references name the folders.",))
        caption = (
            f"{kind.capitalize()} case: {name}. Below each model: {metric.heading}, {items[0].structure}. "
            "Slices with most of the reference's foreground; cropped to the structures."
            + (" Colours repeat: there are more structures than colours." if len(labels) > len(COLOURS) else "")
        )
        illustrations.append(Illustration(f"case_{kind}", figure, caption, alt, photo=True))
    chosen_by = (
        f"Chosen by the mean over the models of {metric.heading} ({items[0].structure}), so that no "
        "model chooses; of repeated trainings the first is shown."
    )
    return Section(_TITLE, (chosen_by,), illustrations=tuple(illustrations))


def extremes(scores: dict[str, float]) -> dict[str, str]:
    """Choose the worst, the median and the best case by a score, higher is better; fewer if there are fewer cases."""
    ordered = sorted(scores, key=lambda case: (scores[case], case))
    chosen = {"worst": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "best": ordered[-1]}
    return {kind: case for i, (kind, case) in enumerate(chosen.items()) if case not in list(chosen.values())[:i]}


def _files(name: str, models: Repetitions, images: Path | None, references: Path | None) -> ShownCase:
    """Find the files of a case; a model that was trained several times shows the first training that has it.

    Raises:
        ValueError: for what is missing.
    """
    files = {}
    for title, own in models.items():
        model = next((model for model in own if name in model.cases), own[0])
        if name not in model.cases:
            raise ValueError(f"{model.path} does not say which files belong to {name}; evaluate writes it")
        files[title] = model.cases[name]
    predictions = {title: prediction for title, (_, prediction) in files.items()}
    reference, prediction = next(iter(files.values()))
    ending = prediction.name.removeprefix(name)
    if references is not None:
        reference = references / f"{name}{ending}"
    folder = images or _raw_images(models)
    if folder is None:
        raise ValueError(f"nnUNet_raw has no image of {name}")
    image = folder / f"{name}_0000{ending}"  # the first channel
    if not image.is_file():
        raise ValueError(f"no image {image}")
    for file in (reference, *predictions.values()):
        if not file.is_file():
            raise ValueError(f"no file {file}")
    return ShownCase(name, image, reference, predictions)


def _raw_images(models: Repetitions) -> Path | None:
    """Find the images of the data set, where it is known and nnUNet_raw is set."""
    raw = os.environ.get("nnUNet_raw")
    datasets = (model.dataset or model.plans.get("dataset_name") for model, *_ in models.values())
    dataset = next(filter(None, datasets), None)
    if not raw or not isinstance(dataset, str) or Path(dataset).name != dataset:  # as a stranger's plans may have it
        return None
    return Path(raw) / dataset / "imagesTr"


def _labels(models: Repetitions) -> dict[int, str]:
    """Find the names by value. Regions have several values, of which each keeps the name of its smallest region."""
    names: dict[int, str] = {}
    for model in (model for own in models.values() for model in own):
        given = model.dataset_json.get("labels", {})
        if not isinstance(given, dict):
            raise ValueError(f"{model.path / 'dataset.json'}: 'labels' must give each name its value")
        labels = {name: values_of(value) for name, value in given.items() if name != "ignore"}
        for name, values in sorted(labels.items(), key=lambda item: len(item[1])):
            for value in values:
                if value:
                    names.setdefault(value, name)
    if not names:
        raise ValueError("no results folder has a dataset.json with the labels' names")
    return names
