"""A trained model reduced to what inference in a container needs."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..evaluation.measured_labels import read_labels
from ..nnunet.dataset_description import channels_of
from ..nnunet.model_folds import find_folds
from .foreign_parts import check_reader, check_trainer
from .model_content import check_name, check_no_cascade, read_model
from .model_source import DOCUMENTS


@dataclass(frozen=True)
class ModelDescription:
    """What there is to know of a model without its weights.

    Attributes:
        folds: those that were copied.
        channel_names: those of the input, in their order.
        label_names: those of the labels or regions, without the background.
        training: what each fold's checkpoint says of its training, as of ``_notes_of_training``.
    """

    trainer: str
    configuration: str
    dataset: str
    folds: tuple[str, ...]
    channel_names: tuple[str, ...]
    label_names: tuple[str, ...]
    training: tuple[dict[str, Any], ...] = ()


def copy_for_inference(
    source: Path | zipfile.Path, target: Path, folds: Sequence[str] | None, checkpoint: str
) -> ModelDescription:
    """Check a model and copy what prediction needs: plans, data set's description and the weights of some folds.

    Optimizer state, logs and everything else in the checkpoints is left out.

    Args:
        source: as from ``open_model``.
        target: a folder, made here.
        folds: as ``["0", "all"]``, or None; see ``find_folds``.
        checkpoint: name of the file in the folders ``fold_*``.

    Raises:
        OSError, ValueError, pickle.UnpicklingError: as ``find_folds`` and ``read_model``; ValueError also for a model
            that a container could not run.
    """
    folds = find_folds(source, folds, checkpoint)
    model = read_model(source, folds, checkpoint)
    for key in ("dataset_name", "image_reader_writer"):
        check_name(model.plans[key], key, source / "plans.json")
    check_no_cascade(model)
    check_trainer(model)
    check_reader(model.plans["image_reader_writer"])
    target.mkdir(parents=True)
    for name, document in zip(DOCUMENTS, (model.dataset, model.plans), strict=True):
        (target / name).write_text(json.dumps(document, indent=2), encoding="utf-8")
    training = tuple(content.pop("training") for content in model.checkpoints.values())
    for file, content in model.checkpoints.items():
        (target / file).parent.mkdir()
        torch.save(content, target / file)
    labels = read_labels(model.dataset, PlansManager(model.plans), source / "dataset.json").measured
    return ModelDescription(
        model.trainer,
        model.configuration,
        model.plans["dataset_name"],
        folds,
        tuple(channels_of(model.dataset).values()),
        tuple(label.name for label in labels),
        training,
    )
