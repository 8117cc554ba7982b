"""Which models can be averaged: those of the same images and labels."""

from __future__ import annotations

from collections.abc import Sequence

from ..nnunet.dataset_description import channels_of, labels_of
from ..text import excerpt
from .model_content import ModelContent, check_no_cascade


def check_alike(models: Sequence[ModelContent]) -> None:
    """Check that models take the same channels, read the same way, and give the same labels or regions.

    Plans, spacings, trainers and folds may differ.

    Raises:
        ValueError: naming the model that differs from the first, and in what.
    """
    first, *others = models
    for other in others:
        for model in (first, other):
            check_no_cascade(model)
        file, their_file = (f"{model.name}/dataset.json" for model in (other, first))
        found, expected = (channels_of(model.dataset) for model in (other, first))
        if found != expected:
            raise ValueError(
                f"{file}: the channels are {excerpt(found)}, and {excerpt(expected)} in {their_file}; models that are "
                "averaged take the same images"
            )
        _check_labels(other, first)
        readers = [model.plans["image_reader_writer"] for model in (other, first)]
        if readers[0] != readers[1]:
            raise ValueError(
                f"{other.name}/plans.json: the images are read by {readers[0]}, and by {readers[1]} in "
                f"{first.name}/plans.json, which may turn their axes; such models cannot be averaged"
            )


def _check_labels(model: ModelContent, first: ModelContent) -> None:
    found, expected = (labels_of(content.dataset) for content in (model, first))
    for name in [*expected, *found]:
        if found.get(name) != expected.get(name):
            values = [labels.get(name, "missing") for labels in (found, expected)]
            raise ValueError(
                f"{model.name}/dataset.json: the label {name!r} is {excerpt(values[0])}, and {excerpt(values[1])} in "
                f"{first.name}/dataset.json; models that are averaged have the same labels"
            )
    orders = [content.dataset.get("regions_class_order") for content in (model, first)]
    if orders[0] != orders[1] or [*found] != [*expected]:
        raise ValueError(
            f"{model.name}/dataset.json: the labels or regions_class_order come in another order than in "
            f"{first.name}/dataset.json; models that are averaged have the same"
        )
