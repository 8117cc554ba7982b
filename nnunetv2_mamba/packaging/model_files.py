"""A trained nnU-Net model as files: found in a folder or ZIP, read and checked, reduced to what inference needs."""

from __future__ import annotations

import io
import json
import pydoc
import re
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import torch
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.architectures.origins import modules_of_parts
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.untrusted.checkpoints import read_plain

from ..evaluation.measured_labels import read_labels
from ..files import JSON_BYTES, parse_json, read_bytes
from ..nnunet.planned_configuration import planned_configuration, preprocessing_of
from ..untrusted.plans import check_untrusted_plans
from .model_checks import channels_of, check_configuration, check_dataset, check_mirroring

# Names go into a Dockerfile, YAML and scripts.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_DOCUMENTS = ("dataset.json", "plans.json")
_MOST_MEMBERS = 100_000  # of a ZIP
_CHECKPOINT_BYTES = 16 << 30
_MOST_COMPRESSED = 100  # times, of checkpoints in a ZIP: weights lose a tenth, an optimizer's zeros somewhat more
_ENVIRONMENT_KEY = "nnunetv2_mamba_environment"  # as ``trainers.resumable_trainer`` writes it
_NOT_THERE = ", which the container would not have: it holds nnU-Net as released and this package only"


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


def open_model(source: Path) -> Path | zipfile.Path:
    """nnU-Net's folder ``TRAINER__PLANS__CONFIGURATION``, or the one in a ZIP of ``nnUNetv2_export_model_to_zip``.

    Nothing is unpacked: the members of a ZIP are read one by one.

    Raises:
        FileNotFoundError: where there is nothing, or a JSON file is missing.
        ValueError: for a ZIP that is damaged, has no model or several, or a member that points out of it.
    """
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
    model = source if source.is_dir() else _in_zip(source)
    for file in (model / name for name in _DOCUMENTS):
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: give the folder TRAINER__PLANS__CONFIGURATION of nnU-Net's results"
            )
    return model


def _in_zip(source: Path) -> zipfile.Path:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"{source} is neither a model's folder nor a ZIP file: {error}") from error
    if len(names) > _MOST_MEMBERS:
        raise ValueError(f"{source} has {len(names)} members, more than a model has: do not use this file")
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{source} has a member that points out of it, {name!r}: do not use this file")
    paths = [PurePosixPath(name) for name in names]
    folders = [str(path.parent) for path in paths if path.name == "plans.json"]
    if len(folders) > 1:  # nnU-Net copies the file to cross-validated predictions, which --exp_cv_preds exports, too
        with_folds = {str(path.parent.parent) for path in paths if path.parent.name.startswith("fold_")}
        folders = [folder for folder in folders if folder in with_folds] or folders
    if len(folders) != 1:
        found = f"{len(folders)} models ({', '.join(sorted(folders))})" if folders else "no plans.json"
        raise ValueError(f"{source} has {found}; give a ZIP of one model, or unpack it and give the model's folder")
    return zipfile.Path(source, "" if folders[0] == "." else f"{folders[0]}/")


def find_folds(source: Path | zipfile.Path, folds: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
    """The folds that are asked for, each once; for None all the numbered ones that have the checkpoint, else ``all``.

    Raises:
        FileNotFoundError: where there is none, or one that is asked for has no such checkpoint.
    """
    names = [match[1] for path in source.iterdir() if (match := re.fullmatch(r"fold_(0|[1-9][0-9]*|all)", path.name))]
    present = [fold for fold in names if (source / f"fold_{fold}" / checkpoint).is_file()]
    present.sort(key=lambda fold: (fold == "all", len(fold), fold))  # 10 after 9
    if not present:
        raise FileNotFoundError(f"{source} has no fold_0, fold_1, ... with {checkpoint}; see --checkpoint")
    if folds is None:
        return tuple(fold for fold in present if fold != "all") or ("all",)
    missing = [fold for fold in folds if fold not in present]
    if missing:
        raise FileNotFoundError(
            f"{source / f'fold_{missing[0]}' / checkpoint} is missing; folds with it: {', '.join(present)}"
        )
    return tuple(dict.fromkeys(folds))


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
        ValueError: for a file that is not what it should be, naming it.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    name = str(source if name is None else name).rstrip("/")
    dataset, plans = (parse_json(read_member(source / file, JSON_BYTES), source / file) for file in _DOCUMENTS)
    dataset_file, plans_file = (f"{name}/{file}" for file in _DOCUMENTS)
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
        _compare_preprocessing(content.pop("plans"), plans, configuration, f"{name}/{file}")
    return ModelContent(name, plans, dataset, trainer, configuration, checkpoints)


def _compare_preprocessing(theirs: Any, plans: dict[str, Any], configuration: str, file: str) -> None:
    """Tell where plans.json, which nnU-Net writes anew with each fold, preprocesses in another way than a fold was
    trained with."""
    if not isinstance(theirs, dict) or not planned_configuration(theirs, configuration):
        return
    trained, now = (preprocessing_of(each, configuration) for each in (theirs, plans))
    changed = [key for key, value in trained.items() if value != now[key]]
    if changed:
        print(
            f"WARNING: {file} was trained with other plans than plans.json: {', '.join(changed)}; train this fold "
            "again, or leave it out",
            file=sys.stderr,
        )


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
        _check_name(model.plans[key], key, source / "plans.json")
    check_no_cascade(model)
    check_trainer(model)
    _check_reader(model.plans["image_reader_writer"])
    target.mkdir(parents=True)
    for name, document in zip(_DOCUMENTS, (model.dataset, model.plans), strict=True):
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


def check_trainer(model: ModelContent) -> None:
    """Check that the model's trainer, and what it makes the network of, are nnU-Net's as released or this package's.

    Raises:
        ValueError: where it is not installed, or comes from elsewhere.
    """
    try:
        trainer = recursive_find_trainer_class_by_name(model.trainer)
    except (RuntimeError, AssertionError, TypeError) as error:  # of no such name, or of something else
        raise ValueError(f"the trainer {model.trainer} of {model.name} is not installed here") from error
    if not _in_the_container(trainer.__module__):
        raise ValueError(f"the trainer {model.trainer} comes from {trainer.__module__}{_NOT_THERE}")
    planned = PlansManager(model.plans).get_configuration(model.configuration)
    network_class = getattr(trainer, "network_class", None) or pydoc.locate(planned.network_arch_class_name)
    options = {**planned.network_arch_init_kwargs, **getattr(trainer, "network_options", {})}
    modules = modules_of_parts(network_class, options)
    if registered := NETWORKS.get(getattr(trainer, "network_name", None)):  # another package's may be of our class
        modules[f"registration of the network {registered.name}"] = registered.module
    for part, module in modules.items():
        if not _in_the_container(module):
            raise ValueError(f"the {part} comes from {module}{_NOT_THERE}")


def _check_reader(name: str) -> None:
    """Refuse an image reader, which nnU-Net has, that a container could not feed: images arrive as NIfTI or are turned
    into it."""
    reader = recursive_find_reader_writer_by_name(name)
    if ".nii.gz" not in reader.supported_file_endings:
        endings = ", ".join(reader.supported_file_endings)
        raise ValueError(f"the model was trained on files of {name} ({endings}), which no platform here sends")
    if not _in_the_container(reader.__module__):
        raise ValueError(f"the image reader {name} comes from {reader.__module__}{_NOT_THERE}")


def read_member(file: Path | zipfile.Path, limit: int, most_compressed: float = float("inf")) -> bytes:
    """The content of a file or of a member, which is decompressed only where it says that it is not too large."""
    if isinstance(file, Path):
        return read_bytes(file, limit)
    member = file.root.getinfo(file.at)
    if member.file_size > min(limit, most_compressed * max(member.compress_size, 1 << 20)):
        raise ValueError(
            f"{file} has {member.file_size} bytes in {member.compress_size} of the ZIP, more than such a file may have"
        )
    try:
        with file.root.open(member) as stream:  # gives no more than the size above
            return stream.read()
    except Exception as error:  # each kind of compression has its own
        raise ValueError(f"{file} is damaged: {error}") from error


def _require(document: Any, keys: Sequence[str], file: object) -> None:
    missing = [key for key in keys if key not in document] if isinstance(document, dict) else keys
    if missing:
        raise ValueError(f"{file} is not nnU-Net's: it has no {', '.join(missing)}")


def _check_name(name: Any, what: str, file: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{file}: the {what} is {name!r}; it must be of letters, digits and _ . + - only")


def read_checkpoint(file: Path | zipfile.Path) -> dict[str, Any]:
    """What ``nnUNetPredictor.initialize_from_trained_model_folder`` reads of a checkpoint, as plain data, and
    ``training`` and ``plans``, what the checkpoint says of its own.

    Raises:
        OSError, ValueError: for a file that is missing, damaged or no checkpoint of nnU-Net.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    if isinstance(file, Path):
        checkpoint = read_plain(file)
    else:
        checkpoint = read_plain(io.BytesIO(read_member(file, _CHECKPOINT_BYTES, _MOST_COMPRESSED)), file)
    _require(checkpoint, ("network_weights", "trainer_name", "init_args"), file)
    weights, arguments = checkpoint["network_weights"], checkpoint["init_args"]
    named = isinstance(weights, dict) and all(isinstance(key, str) for key in weights)
    if not named or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{file}: network_weights are not tensors")
    _require(arguments, ("configuration",), file)
    _check_name(checkpoint["trainer_name"], "trainer_name", file)
    _check_name(arguments["configuration"], "configuration", file)
    return {
        "network_weights": weights,
        "trainer_name": checkpoint["trainer_name"],
        "init_args": {"configuration": arguments["configuration"]},
        "inference_allowed_mirroring_axes": checkpoint.get("inference_allowed_mirroring_axes"),
        "training": _notes_of_training(checkpoint),
        "plans": arguments.get("plans"),
    }


def _notes_of_training(checkpoint: dict[str, Any]) -> dict[str, str | bool | int]:
    """The epochs that were trained and, of a trainer of this package, what they were computed with."""
    environment = checkpoint.get(_ENVIRONMENT_KEY)
    environment = environment if isinstance(environment, dict) else {}
    notes = {**environment, "epochs": checkpoint.get("current_epoch")}
    return {str(key): value for key, value in notes.items() if isinstance(value, str | bool | int)}


def _in_the_container(module: str) -> bool:
    """Whether it is of this package, or of nnU-Net as an index has it: not of a fork, nor copied into it."""
    package = module.split(".")[0]
    if package != "nnunetv2":
        return package == "nnunetv2_mamba"
    installed = next(iter(metadata.distributions(name="nnunetv2")), None)
    if installed is None:
        return False
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if origin and "archive_info" not in origin:  # a checkout; pip notes a downloaded wheel as an archive
        return False
    source = Path(sys.modules[module].__file__).resolve()
    return any(Path(file.locate()).resolve() == source for file in installed.files or ())
