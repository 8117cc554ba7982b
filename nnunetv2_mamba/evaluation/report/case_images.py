"""Which cases are shown, and where their files are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..comparison import Comparison
from ..evaluated_model import EvaluatedModel, Repetitions
from ..metrics import METRICS
from .html import Illustration, Section
from .overlays import ShownCase, extremes, find_image, overlay
from .style import COLOURS

_TITLE = "Worst, median and best case"


@dataclass(frozen=True)
class CaseImages:
    """Folders given by the user: ``images`` in nnU-Net's naming and ``references``; None: those of the data set in
    nnUNet_raw, and those that the evaluation read."""

    images: Path | None = None
    references: Path | None = None

    def section(self, comparison: Comparison, models: Repetitions) -> Section:
        """The cases by the mean over the models of the first metric, or a sentence that says what is missing.

        Raises:
            ValueError: if a folder that the user named lacks a file.
        """
        items = comparison.of(comparison.metrics[0])
        if not items:
            return Section(_TITLE, ("No cases: nothing was compared.",))
        values = items[0].values
        metric = METRICS[items[0].metric]
        sign = -1 if metric.lower_is_better else 1
        chosen = extremes((sign * values.mean(axis=1)).to_dict())
        illustrations = []
        for kind, name in chosen.items():
            try:
                case = self._files(name, models)
                labels = _labels(models)
                captions = {title: metric.number(values.loc[name, title]) for title in comparison.names}
                figure, alt = overlay(case, labels, captions)
            except ValueError as error:
                if self.images or self.references:
                    raise
                return Section(_TITLE, (f"No images: {error}. --images and --references name the folders.",))
            caption = (
                f"{kind.capitalize()} case: {name}. Below each model: {metric.heading}, {items[0].structure}. "
                "Slices with most of the reference's foreground; cropped to the structures."
                + (" Colours repeat: there are more structures than colours." if len(labels) > len(COLOURS) else "")
            )
            illustrations.append(Illustration(f"case_{kind}", figure, caption, alt, photo=True))
        return Section(
            _TITLE,
            (
                f"Chosen by the mean over the models of {metric.heading} ({items[0].structure}), so that no "
                "model chooses; of repeated trainings the first is shown.",
            ),
            illustrations=tuple(illustrations),
        )

    def _files(self, name: str, models: Repetitions) -> ShownCase:
        predictions, reference, image = {}, None, None
        for title, (model, *_) in models.items():
            if name not in model.cases:
                raise ValueError(f"{model.path} does not say which files belong to {name}; evaluate writes it")
            given, predictions[title] = model.cases[name]
            reference = reference or given
            ending = predictions[title].name.removeprefix(name)
            image = image or self._image(model, name, ending)
        if self.references is not None:
            reference = self.references / f"{name}{ending}"
        for file in (reference, *predictions.values()):
            if not file.is_file():
                raise ValueError(f"no file {file}")
        if image is None:
            raise ValueError(f"nnUNet_raw has no image of {name}")
        return ShownCase(name, image, reference, predictions)

    def _image(self, model: EvaluatedModel, name: str, ending: str) -> Path | None:
        if self.images is not None:
            return find_image(self.images, name, ending)
        raw, dataset = os.environ.get("nnUNet_raw"), model.dataset or model.plans.get("dataset_name")
        if not raw or not dataset:
            return None
        return find_image(Path(raw) / dataset / "imagesTr", name, ending)


def _labels(models: Repetitions) -> dict[int, str]:
    """Names by value. Regions have several values, of which each keeps the name of its smallest region."""
    names: dict[int, str] = {}
    for model in (model for own in models.values() for model in own):
        given = model.dataset_json.get("labels", {})
        if not isinstance(given, dict):
            raise ValueError(f"{model.path / 'dataset.json'}: 'labels' must give each name its value")
        labels = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
        for name, values in sorted(labels.items(), key=lambda item: len(item[1])):
            for value in values:
                if value and name != "ignore":
                    names.setdefault(int(value), name)
    if not names:
        raise ValueError("no results folder has a dataset.json with the labels' names")
    return names
