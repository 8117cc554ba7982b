"""What a trained nnU-Net model says, read and checked as plain data."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.untrusted.checkpoints import read_plain

from ..files import JSON_BYTES, parse_json
from ..nnunet.dataset_description import changed_meaning, renamed
from ..nnunet.planned_configuration import configuration_with_preprocessing, planned_configuration
from ..temperature_file import NAME as TEMPERATURE
from ..temperature_file import read_temperature
from ..untrusted.plans import check_untrusted_plans
from .checksums import sha256
from .model_checks import check_configuration, check_dataset, check_mirroring
from .model_source import DOCUMENTS, read_member

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_CHECKPOINT_BYTES = 16 << 30
_MOST_COMPRESSED = 100  # times, of checkpoints in a ZIP: weights lose a tenth, an optimizer's zeros somewhat more
# What plans say that no prediction depends on.
_OF_TRAININGS = ("batch_size", "batch_dice", "data_identifier", "median_image_size_in_voxels", "next_stage")
_REMEDY = "train this fold again, or leave it out"
_ENVIRONMENT_KEY = "nnunetv2_mamba_environment"  # as ``trainers.resumable_trainer`` writes it


class ModelContent(NamedTuple):
    """What nnU-Net's predictor reads of a model, checked, as plain data.

    Attributes:
        name: what messages call the model.
        plans, dataset: what the JSON files say.
        trainer, configuration: names in the checkpoints, the same in all of them.
        checkpoints: by their files in the model's folder, ``fold_0/checkpoint_final.pth``, as of ``read_checkpoint``.
    """

    name: str
    plans: dict[str, Any]
    dataset: dict[str, Any]
    trainer: str
    configuration: str
    checkpoints: dict[str, dict[str, Any]]


def read_model(source: Path | zipfile.Path, folds: Sequence[str], checkpoint: str, name: object = None) -> ModelContent:
    """Read what ``initialize_from_trained_model_folder`` of nnU-Net's predictor does, of a model of anybody's.

    nnU-Net unpickles checkpoints with the objects in them and calls what the plans name as a network. Here all is read
    as plain data and checked.

    Args:
        source: as from ``open_model``.
        folds: whose checkpoints are read.
        checkpoint: name of the file in the folders ``fold_*``.
        name: what messages call the model; ``source`` where None.

    Raises:
        OSError: for a file that is missing or cannot be read.
        ValueError: for a file that is not what it should be, naming it; for a fold of other labels or channels.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    name = str(source if name is None else name).rstrip("/")
    dataset, plans = (parse_json(read_member(source / file, JSON_BYTES), source / file) for file in DOCUMENTS)
    dataset_file, plans_file = (f"{name}/{file}" for file in DOCUMENTS)
    _require(plans, ("configurations", "dataset_name", "image_reader_writer"), plans_file)
    check_dataset(dataset, dataset_file)
    check_untrusted_plans(plans, plans_file)
    files = [f"fold_{fold}/{checkpoint}" for fold in folds]
    checkpoints = {file: read_checkpoint(source / file) for file in files}
    kinds = {(content["trainer_name"], content["init_args"]["configuration"]) for content in checkpoints.values()}
    if len(kinds) > 1:
        raise ValueError(f"the folds of {name} are different models: {sorted(kinds)}; take those of one")
    trainer, configuration = kinds.pop()
    patch_size = check_configuration(configuration, plans, dataset, plans_file)
    for file, content in checkpoints.items():
        check_mirroring(content["inference_allowed_mirroring_axes"], patch_size, f"{name}/{file}")
        _compare_plans(content.pop("plans"), plans, configuration, f"{name}/{file}")
        _compare_datasets(content.pop("dataset"), dataset, f"{name}/{file}")
    return ModelContent(name, plans, dataset, trainer, configuration, checkpoints)


def _compare_plans(theirs: Any, plans: dict[str, Any], configuration: str, file: str) -> None:
    """Tell where plans.json, which nnU-Net writes anew with each fold, has another network or preprocessing than a fold
    was trained with; the weights may fit nevertheless."""
    if not isinstance(theirs, dict) or not planned_configuration(theirs, configuration):
        return
    trained, now = (configuration_with_preprocessing(each, configuration) for each in (theirs, plans))
    changed = [key for key in trained | now if trained.get(key) != now.get(key) and key not in _OF_TRAININGS]
    if changed:
        print(
            f"WARNING: {file} was trained with other plans than plans.json: {', '.join(changed)}; {_REMEDY}",
            file=sys.stderr,
        )


def _compare_datasets(theirs: Any, dataset: dict[str, Any], file: str) -> None:
    """Refuse a fold whose outputs or inputs mean something else than by dataset.json, which nnU-Net writes anew with
    each fold."""
    if theirs is None:  # packaged
        return
    check_dataset(theirs, f"{file}, dataset_json")
    if changed := changed_meaning(theirs, dataset):
        raise ValueError(f"{file} was trained with another dataset.json: {changed}; {_REMEDY}")
    if names := renamed(theirs, dataset):
        print(f"WARNING: {file} was trained with other names: {names}", file=sys.stderr)


def check_no_cascade(model: ModelContent) -> None:
    """Refuse the second model of nnU-Net's cascade, which needs the prediction of the first.

    Raises:
        ValueError: naming its plans.
    """
    if PlansManager(model.plans).get_configuration(model.configuration).previous_stage_name is not None:
        raise ValueError(
            f"{model.name}/plans.json: {model.configuration!r} is the second model of nnU-Net's cascade and cannot "
            "predict on its own"
        )


def _require(document: Any, keys: Sequence[str], file: object) -> None:
    missing = [key for key in keys if key not in document] if isinstance(document, dict) else keys
    if missing:
        raise ValueError(f"{file} is not nnU-Net's: it has no {', '.join(missing)}")


def check_name(name: Any, what: str, file: object) -> None:
    """Check a name that goes into a Dockerfile, YAML and scripts.

    Raises:
        ValueError: naming ``file`` and ``what``.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{file}: the {what} is {name!r}; it must be of letters, digits and _ . + - only")


def read_checkpoint(file: Path | zipfile.Path) -> dict[str, Any]:
    """What ``nnUNetPredictor.initialize_from_trained_model_folder`` reads of a checkpoint, as plain data, and
    ``training``, ``plans`` and ``dataset``, what the checkpoint says of its own.

    Raises:
        OSError, ValueError: for a file that is missing, damaged or no checkpoint of nnU-Net.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    if isinstance(file, Path):
        checkpoint = read_plain(file)
    else:
        checkpoint = read_plain(io.BytesIO(_read_checkpoint_member(file)), file)
    _require(checkpoint, ("network_weights", "trainer_name", "init_args"), file)
    weights, arguments = checkpoint["network_weights"], checkpoint["init_args"]
    named = isinstance(weights, dict) and all(isinstance(key, str) for key in weights)
    if not named or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{file}: network_weights are not tensors")
    _require(arguments, ("configuration",), file)
    check_name(checkpoint["trainer_name"], "trainer_name", file)
    check_name(arguments["configuration"], "configuration", file)
    return {
        "network_weights": weights,
        "trainer_name": checkpoint["trainer_name"],
        "init_args": {"configuration": arguments["configuration"]},
        "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
        "training": _notes_of_training(checkpoint),
        "plans": arguments.get("plans"),
        "dataset": arguments.get("dataset_json"),
    }


def calibrated_temperature(source: Path | zipfile.Path, folds: Sequence[str], checkpoint: str) -> float:
    """The temperature that ``nnunetv2_mamba calibrate`` has written; checkpoints that it has not recorded pass.

    Args:
        source, folds, checkpoint: as of ``read_model``.

    Raises:
        OSError, ValueError: as ``read_temperature``.
        ValueError: for a checkpoint that is not the one that it was fitted on.
    """
    temperature = read_temperature(source)
    for name in (f"fold_{fold}/{checkpoint}" for fold in folds):
        if (recorded := temperature.checkpoints.get(name)) is not None and recorded != _sha256(source / name):
            raise ValueError(
                f"{source / TEMPERATURE} was fitted on another {name}: validate the fold (nnUNetv2_train ... --val "
                "--npz) and calibrate again, or leave out --calibrated"
            )
    return temperature.value


def _sha256(file: Path | zipfile.Path) -> str:
    return sha256(file) if isinstance(file, Path) else hashlib.sha256(_read_checkpoint_member(file)).hexdigest()


def _read_checkpoint_member(file: zipfile.Path) -> bytes:
    return read_member(file, _CHECKPOINT_BYTES, _MOST_COMPRESSED)


def _notes_of_training(checkpoint: dict[str, Any]) -> dict[str, str | bool | int]:
    """The epochs that were trained and, of a trainer of this package, what they were computed with."""
    environment = checkpoint.get(_ENVIRONMENT_KEY)
    environment = environment if isinstance(environment, dict) else {}
    notes = {**environment, "epochs": checkpoint.get("current_epoch")}
    return {str(key): value for key, value in notes.items() if isinstance(value, str | bool | int)}
