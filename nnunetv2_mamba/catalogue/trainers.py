"""Every trainer that nnU-Net finds here, from wherever it comes: ``nnunetv2_mamba trainers``."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba import _register
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.nnunet.trainer_search import FoundTrainers, all_trainers
from nnunetv2_mamba.trainers import FULL_LENGTH
from nnunetv2_mamba.trainers.base import nnUNetTrainerMamba
from nnunetv2_mamba.trainers.lengths import LENGTHS
from nnunetv2_mamba.trainers.recipe import Recipe

from ..extensions import PROBLEMS, installed_trainers, package_of, package_with
from ..versions import installed_version

if TYPE_CHECKING:
    from .cost import Cost, Costs

OURS = "nnunetv2-mamba"


@dataclass(frozen=True)
class TrainerEntry:
    """A trainer in the list.

    Attributes:
        name: for ``-tr``.
        network: what it trains: a network's name, with the options that are not that network's own, or ``the plan's``.
        recipe: settings that differ from nnU-Net's; of trainers that have no recipe here, the methods that they
            override.
        origin: package and version, or the folder on ``nnUNet_extTrainer``.
        module: in which the class is defined.
        lengths: what else may follow the name.
        cost: on the plan, or why there is none; None where no plan was given.
    """

    name: str
    network: str
    recipe: str
    origin: str
    module: str
    lengths: list[str] = field(default_factory=list)
    cost: Cost | str | None = None


def list_trainers(pattern: str = "*", costs: Costs | None = None) -> tuple[list[TrainerEntry], list[str]]:
    """Return the trainers that nnU-Net finds, in the order of its search, and what is wrong with others.

    Args:
        pattern: of names, as the shell's; a word without ``*`` or ``?`` may stand anywhere in a name.
        costs: on a plan.
    """
    if not set(pattern) & set("*?["):
        pattern = f"*{pattern}*"
    found = all_trainers()
    entries = []
    for name, (trainer, place) in found.trainers.items():
        base, underscore, length = name.rpartition("_")
        is_length = place == _register.DISCOVERY and underscore + length in LENGTHS and base in found.trainers
        if is_length or not fnmatch.fnmatchcase(name, pattern):
            continue
        entries.append(
            TrainerEntry(
                name,
                _network(trainer),
                _recipe(trainer),
                _origin(name, trainer, place),
                trainer.__module__,
                [suffix for suffix in LENGTHS if name + suffix in found.trainers],
                None if costs is None else costs.of(trainer),
            )
        )
    unloaded = [f"{module} cannot be loaded: {reason}" for module, reason in PROBLEMS.items()]
    return entries, [*found.problems, *unloaded, *_hidden(found)]


def _hidden(found: FoundTrainers) -> list[str]:
    """What is wrong with trainers of other packages whose name nnU-Net finds elsewhere."""
    return [
        f"{name} of {package_of(entry)}: nnU-Net finds that of {_origin(name, *found.trainers[name])} under this name; "
        "give yours another"
        for name, entry in installed_trainers().items()
        if name in found.trainers and (name in FULL_LENGTH or found.trainers[name][1] != _register.DISCOVERY)
    ]


def _network(trainer: type[nnUNetTrainer]) -> str:
    if issubclass(trainer, nnUNetTrainerMamba):
        name = trainer.network_name or trainer.network_class.__name__
        usual = NETWORKS[name].options if name in NETWORKS else {}
        options = [f"{key}={value}" for key, value in trainer.network_options.items() if usual.get(key) != value]
        return f"{name} {', '.join(options)}".strip()
    if trainer.build_network_architecture is nnUNetTrainer.build_network_architecture:
        return "the plan's"
    return "its own"


def _recipe(trainer: type[nnUNetTrainer]) -> str:
    if not issubclass(trainer, nnUNetTrainerMamba):
        bases = trainer.__mro__[: trainer.__mro__.index(nnUNetTrainer)]
        changed = {name for base in bases for name in vars(base) if hasattr(nnUNetTrainer, name)}
        methods = sorted(name for name in changed if name == "__init__" or not name.startswith("__"))
        return f"overrides {', '.join(methods)}" if methods else "nnU-Net's"
    usual = Recipe()
    numbers = [
        f"{entry.name}={value!r}"
        for entry in fields(trainer.recipe)
        if (value := getattr(trainer.recipe, entry.name)) != getattr(usual, entry.name, entry.default)
    ]
    return ", ".join(numbers) or "nnU-Net's"


def _origin(name: str, trainer: type[nnUNetTrainer], place: str) -> str:
    if place != _register.DISCOVERY:
        return f"nnunetv2 {installed_version('nnunetv2')}" if place == "nnunetv2" else place
    installed = installed_trainers()
    if name in installed and name not in FULL_LENGTH:
        return package_of(installed[name])
    network = getattr(trainer, "network_class", trainer)  # that of another package has a trainer made here
    return package_with(network.__module__) or f"{OURS} {installed_version(OURS, '')}".strip()
