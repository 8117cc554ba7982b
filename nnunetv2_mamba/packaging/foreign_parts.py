"""What a model is made of must be in a container, which holds nnU-Net as released and this package only."""

from __future__ import annotations

import json
import pydoc
import sys
from importlib import metadata
from pathlib import Path

from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.architectures.origins import modules_of_parts
from nnunetv2_mamba.architectures.registry import NETWORKS

from .model_content import ModelContent

_NOT_THERE = ", which the container would not have: it holds nnU-Net as released and this package only"


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


def check_reader(name: str) -> None:
    """Refuse an image reader, which nnU-Net has, that a container could not feed: images arrive as NIfTI or are turned
    into it."""
    reader = recursive_find_reader_writer_by_name(name)
    if ".nii.gz" not in reader.supported_file_endings:
        endings = ", ".join(reader.supported_file_endings)
        raise ValueError(f"the model was trained on files of {name} ({endings}), which no platform here sends")
    if not _in_the_container(reader.__module__):
        raise ValueError(f"the image reader {name} comes from {reader.__module__}{_NOT_THERE}")


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
