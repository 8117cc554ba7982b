"""A trained nnU-Net model as files: found in a folder or ZIP, checked, and reduced to what inference needs."""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from nnunetv2_mamba.untrusted_checkpoints import read_plain

from ..files import parse_json, read_bytes
from ..untrusted_plans import check_untrusted_plans
from .model_checks import channels_of, check_configuration, check_dataset, check_mirroring

# Names go into a Dockerfile, YAML and scripts.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
_MOST_MEMBERS = 100_000  # of a ZIP
_JSON_BYTES = 64 << 20
_CHECKPOINT_BYTES = 16 << 30
_MOST_COMPRESSED = 100  # times, of checkpoints in a ZIP: weights lose a tenth, an optimizer's zeros somewhat more
_NOT_THERE = ", which the container would not have: it holds nnU-Net as released and this package only"


@dataclass(frozen=True)
class ModelDescription:
    """What there is to know of a model without its weights.

    Attributes:
        folds: that were copied.
        channel_names: of the input, in their order.
        reader: nnU-Net's class that reads the images.
    """

    trainer: str
    configuration: str
    dataset: str
    folds: tuple[str, ...]
    channel_names: tuple[str, ...]
    reader: str


def open_model(source: Path) -> Path | zipfile.Path:
    """nnU-Net's folder ``TRAINER__PLANS__CONFIGURATION``, or the one in a ZIP of ``nnUNetv2_export_model_to_zip``.

    Nothing is unpacked: the members of a ZIP are read one by one.

    Raises:
        FileNotFoundError: where there is nothing.
        ValueError: for a ZIP that is damaged, has no model or several, or a member that points out of it.
    """
    if source.is_dir():
        return source
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist")
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
    folders = [str(PurePosixPath(name).parent) for name in names if PurePosixPath(name).name == "plans.json"]
    if len(folders) != 1:
        found = f"{len(folders)} models ({', '.join(sorted(folders))})" if folders else "no plans.json"
        raise ValueError(f"{source} has {found}; give a ZIP of one model, or unpack it and give the model's folder")
    return zipfile.Path(source, "" if folders[0] == "." else f"{folders[0]}/")


def copy_for_inference(
    source: Path | zipfile.Path, target: Path, folds: Sequence[str] | None, checkpoint: str
) -> ModelDescription:
    """Check a model and copy what prediction needs: plans, data set's description and the weights of some folds.

    Optimizer state, logs and everything else in the checkpoints is left out. Checkpoints are read as plain data.

    Args:
        source: as from ``open_model``.
        target: a folder, made here.
        folds: as ``["0", "all"]``; None for all the numbered ones that have the checkpoint, else ``all``.
        checkpoint: name of the file in the folders ``fold_*``.

    Raises:
        FileNotFoundError: for a file that is missing.
        ValueError: for a file that is not what it should be, or a model that a container could not run.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    plans, dataset = (_read_json(source / name) for name in ("plans.json", "dataset.json"))
    _require(plans, ("configurations", "dataset_name", "image_reader_writer"), source / "plans.json")
    for key in ("dataset_name", "image_reader_writer"):
        _check_name(plans[key], key, source / "plans.json")
    check_dataset(dataset, source / "dataset.json")
    folds = _folds(source, folds, checkpoint)
    check_untrusted_plans(plans, source / "plans.json")
    target.mkdir(parents=True)
    for name, document in (("plans.json", plans), ("dataset.json", dataset)):
        (target / name).write_text(json.dumps(document, indent=2), encoding="utf-8")
    kinds, mirroring = set(), {}
    for fold in folds:
        file = source / f"fold_{fold}" / checkpoint
        slim = read_checkpoint(file)
        kinds.add((slim["trainer_name"], slim["init_args"]["configuration"]))
        mirroring[file] = slim["inference_allowed_mirroring_axes"]
        (target / f"fold_{fold}").mkdir()
        torch.save(slim, target / f"fold_{fold}" / checkpoint)
    if len(kinds) > 1:
        raise ValueError(f"the folds of {source} are different models: {sorted(kinds)}")
    trainer, configuration = kinds.pop()
    patch_size = check_configuration(configuration, plans, dataset, source / "plans.json")
    for file, axes in mirroring.items():
        check_mirroring(axes, patch_size, file)
    _check_trainer(trainer, source)
    names = tuple(channels_of(dataset).values())
    return ModelDescription(trainer, configuration, plans["dataset_name"], folds, names, plans["image_reader_writer"])


def check_reader(model: ModelDescription) -> None:
    """Check that a container can feed the model: images arrive as NIfTI or are turned into it.

    Raises:
        ValueError: where the reader that the model was trained with knows no NIfTI, or would not be in the container.
    """
    try:
        reader = recursive_find_reader_writer_by_name(model.reader)
    except RuntimeError as error:
        raise ValueError(f"nnU-Net has no image reader {model.reader} here") from error
    if ".nii.gz" not in reader.supported_file_endings:
        endings = ", ".join(reader.supported_file_endings)
        raise ValueError(f"the model was trained on files of {model.reader} ({endings}), which no platform here sends")
    if not _in_the_container(reader.__module__):
        raise ValueError(f"the image reader {model.reader} comes from {reader.__module__}{_NOT_THERE}")


def _read_json(file: Path | zipfile.Path) -> Any:
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: give the folder TRAINER__PLANS__CONFIGURATION of nnU-Net's results"
        )
    return parse_json(_read(file, _JSON_BYTES), file)


def _read(file: Path | zipfile.Path, limit: int, most_compressed: float = float("inf")) -> bytes:
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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error


def _require(document: Any, keys: Sequence[str], file: Path | zipfile.Path) -> None:
    missing = [key for key in keys if key not in document] if isinstance(document, dict) else keys
    if missing:
        raise ValueError(f"{file} is not nnU-Net's: it has no {', '.join(missing)}")


def _check_name(name: Any, what: str, file: Path | zipfile.Path) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{file}: the {what} is {name!r}; it must be of letters, digits and _ . + - only")


def _folds(source: Path | zipfile.Path, folds: Sequence[str] | None, checkpoint: str) -> tuple[str, ...]:
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


def read_checkpoint(file: Path | zipfile.Path) -> dict[str, Any]:
    """What ``nnUNetPredictor.initialize_from_trained_model_folder`` reads of a checkpoint, as plain data.

    Raises:
        OSError, ValueError: for a file that is missing, damaged or no checkpoint of nnU-Net.
        pickle.UnpicklingError: for a checkpoint with anything but plain data in it.
    """
    if isinstance(file, Path):
        checkpoint = read_plain(file)
    else:
        checkpoint = read_plain(io.BytesIO(_read(file, _CHECKPOINT_BYTES, _MOST_COMPRESSED)), file)
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
    }


def _check_trainer(trainer: str, source: Path | zipfile.Path) -> None:
    try:
        module = recursive_find_trainer_class_by_name(trainer).__module__
    except (RuntimeError, AssertionError, TypeError) as error:  # of no such name, or of something else
        raise ValueError(f"the trainer {trainer} of {source} is not installed here") from error
    if not _in_the_container(module):
        raise ValueError(f"the trainer {trainer} comes from {module}{_NOT_THERE}")


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
