"""What there is to know of the model in a container: ``model_card.json``, and ``MODEL_CARD.md`` made of it.

Both hold what files say and what was measured. What only people know, as the licence of the weights, is left to them.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..files import JSON_BYTES, parse_json, read_json_object, write_json, write_text
from ..json_numbers import are_lengths, is_finite_number
from ..nnunet.dataset_description import channels_of
from ..text import printable
from .inference_copy import ModelDescription
from .inference_settings import InferenceSettings
from .model_source import read_member, time_written

CARD, CARD_TEXT = "model_card.json", "MODEL_CARD.md"
_FINGERPRINT = "dataset_fingerprint.json"
# Of a fold's validation: the verb evaluate writes the one, nnU-Net the other.
_EVALUATION, _SUMMARY = "evaluation.json", "summary.json"
_COPYING = 5.0  # seconds: copies that do not keep times may be in any order, and a ZIP counts by twos
_NNUNETS_COUNTS = {"TP", "FP", "FN", "TN", "n_pred", "n_ref"}


def model_facts(
    source: Path | zipfile.Path, model: ModelDescription, folder: Path, checksums: Mapping[str, str]
) -> dict[str, Any]:
    """Data, plan, training and validation of a model.

    Args:
        source: where the model was trained, as of ``open_model``.
        model: what was copied of it.
        folder: where to, as of ``copy_for_inference``.
        checksums: SHA-256 of the files there, by path.

    Raises:
        OSError, ValueError: for a file of a validation that cannot be read, naming it.
    """
    plans, dataset = (read_json_object(folder / f"{name}.json") for name in ("plans", "dataset"))
    configuration = PlansManager(plans).get_configuration(model.configuration)
    labels = {name: tuple(value) if isinstance(value, list) else value for name, value in dataset["labels"].items()}
    names = {str(value): str(name) for name, value in labels.items()}  # regions are tuples in nnU-Net's summaries
    fingerprint = source / _FINGERPRINT
    return {
        "data": {
            "dataset": model.dataset,
            "training_cases": dataset.get("numTraining"),
            "channels": list(channels_of(dataset).values()),
            "labels": dataset["labels"],
            "median_size": _in_images_order(plans, "original_median_shape_after_transp"),
            "median_spacing": _in_images_order(plans, "original_median_spacing_after_transp"),
            "fingerprint_sha256": _sha256(fingerprint) if fingerprint.is_file() else None,
        },
        "plan": {
            "plans": plans.get("plans_name"),
            "configuration": model.configuration,
            "network": configuration.network_arch_class_name,
            "patch_size": list(configuration.patch_size),
            "spacing": list(configuration.spacing),
            "batch_size": configuration.configuration.get("batch_size"),
        },
        "trainer": model.trainer,
        "folds": [
            {"fold": fold, "training": training, "validation": _validation(source / f"fold_{fold}/validation", names)}
            for fold, training in zip(model.folds, model.training, strict=True)
        ],
        "sha256": dict(checksums),
    }


def container_card(
    image: str,
    settings: InferenceSettings,
    hashed: bool,
    software: Mapping[str, str],
    models: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What ``model_card.json`` holds before the container has run.

    Args:
        image: name of the container's image.
        hashed: whether pip checks hashes.
        software: versions of ``python``, ``torch`` and ``nnunetv2``, and this package's ``wheel``.
        models: of ``model_facts``.
    """
    return {
        "image": image,
        "platform": settings.platform,
        "inference": asdict(settings.choices),
        "hashed": hashed,
        "software": dict(software),
        "models": list(models),
        "measured": None,
    }


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write both files into a folder.

    Args:
        card: of ``container_card``.
    """
    environment = Environment(
        loader=PackageLoader(__package__), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=_cell, numbers=_numbers)
    write_json(folder / CARD, card)
    write_text(folder / CARD_TEXT, environment.get_template(f"{CARD_TEXT}.jinja").render(card) + "\n")


def add_measurement(folder: Path, measured: Mapping[str, Any]) -> None:
    """Write into a folder's card what a run of its container took.

    Raises:
        OSError, ValueError: where the folder has no card.
    """
    write_card({**read_json_object(folder / CARD), "measured": measured}, folder)


def _in_images_order(plans: Mapping[str, Any], key: str) -> list[float] | None:
    """Three numbers of the plans along the axes of images, as SimpleITK counts them; None where they are not there."""
    values, axes = plans.get(key), plans.get("transpose_backward")
    if not are_lengths(values) or sorted(axes) != [0, 1, 2]:
        return None
    return [values[axis] for axis in reversed(axes)]


def _validation(folder: Path | zipfile.Path, names: Mapping[str, str]) -> dict[str, Any] | None:
    """Means over the cases of each label, as they were written; None where there are none."""
    file, summary = folder / _EVALUATION, folder / _SUMMARY
    if not file.is_file() or (summary.is_file() and time_written(file) < time_written(summary) - _COPYING):
        file = summary  # nnU-Net has validated again since, maybe other weights
    if not file.is_file():
        return None
    content = parse_json(read_member(file, JSON_BYTES), file)
    try:
        return {
            "cases": len(content["metric_per_case"]),
            "mean": _numbers_only(content["foreground_mean"]),
            "labels": {names.get(label, label): _numbers_only(mean) for label, mean in content["mean"].items()},
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not what nnU-Net or nnunetv2_mamba evaluate writes, so delete it or validate again: {error!r}"
        ) from error


def _numbers_only(means: Mapping[str, Any]) -> dict[str, float]:
    """Without counts of voxels, and NaN and infinity, which JSON has not."""
    return {
        str(name): value for name, value in means.items() if name not in _NNUNETS_COUNTS and is_finite_number(value)
    }


def _sha256(file: Path | zipfile.Path) -> str:
    return hashlib.sha256(read_member(file, JSON_BYTES)).hexdigest()


def _cell(value: object) -> str:
    """A stranger's text in a table of Markdown."""
    text = printable(value if isinstance(value, str) else json.dumps(value))
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in text)


def _numbers(values: Mapping[str, float]) -> str:
    return ", ".join(f"{_cell(name)} {value:.4g}" for name, value in values.items())
