"""The trainers that follow from the registry of networks: one per network, and one per variant of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nnunetv2_mamba.architectures.registry import NETWORKS, RegisteredNetwork
from nnunetv2_mamba.extensions import leave_out

from .base import nnUNetTrainerMamba
from .self_distillation import SelfDistillationTrainer

PREFIX = "nnUNetTrainer"

# Networks that are not trained by nnU-Net's loss alone.
BASES: dict[str, type[nnUNetTrainerMamba]] = {"MSDKMamba": SelfDistillationTrainer}


def subclass(
    base: type[nnUNetTrainerMamba], name: str, doc: str, members: Mapping[str, Any]
) -> type[nnUNetTrainerMamba]:
    """Make a trainer class, as a class statement in ``nnunetv2_mamba.trainers`` would.

    nnU-Net and pickle find it there, whichever file makes it.
    """
    return type(name, (base,), {"__module__": __package__, "__doc__": doc, **members})


def trainers_of(network: RegisteredNetwork) -> list[type[nnUNetTrainerMamba]]:
    """Make the network's trainer, and one for each of its variants."""
    base = BASES.get(network.name, nnUNetTrainerMamba)
    members = {
        "network_name": network.name,
        "network_class": network.network_class,
        "network_options": dict(network.options),
        "recipe": replace(base.recipe, **network.recipe),
    }
    trainer = subclass(base, PREFIX + network.name, f"{network.summary}.\n\n{network.training}", members)
    trainers = [trainer]
    for suffix, variant in network.variants.items():
        members = {
            "network_options": {**network.options, **variant.options},
            "recipe": replace(trainer.recipe, **variant.recipe),
        }
        trainers.append(subclass(trainer, trainer.__name__ + suffix, variant.summary, members))
    return trainers


def trainers_of_all() -> dict[str, type[nnUNetTrainerMamba]]:
    """Make the trainers of every network, by name.

    Another package's network of which none can be made, for its recipe or its variants, is warned of and taken out of
    the registry: it must not take the other trainers away.
    """
    made: dict[str, type[nnUNetTrainerMamba]] = {}
    for network in list(NETWORKS.values()):
        try:
            made |= {trainer.__name__: trainer for trainer in trainers_of(network)}
        except Exception as error:  # whatever a stranger's entry may raise
            if not leave_out(network.module, f"the trainers of {network.name}: {type(error).__name__}: {error}"):
                raise
            del NETWORKS[network.name]
    return made


TRAINERS = trainers_of_all()
