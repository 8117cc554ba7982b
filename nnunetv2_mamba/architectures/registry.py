"""The networks by name: what trainers, planners, ``doctor``, tests and documentation are made from.

A network is a folder beside this file whose ``__init__`` registers it, or a module of another package
(``docs/extending.md``); nothing else lists it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

from ..extensions import module_of_caller
from .contract import PlannedNetwork


class Variant(NamedTuple):
    """The network with other options, or trained otherwise, under its own name.

    Args:
        summary: what it is, in a sentence.
        options: of the constructor.
        recipe: numbers of the training.
    """

    summary: str
    options: Mapping[str, Any] = MappingProxyType({})
    recipe: Mapping[str, Any] = MappingProxyType({})


# Every network that mixes sequences has them: what isolates the contribution of its mixer.
CONTROLS = {
    "NoMamba": Variant("The control without Mamba: the state-space part is the identity.", {"mixer": "none"}),
    "Conv": Variant("The control with a depthwise convolution in place of the state-space part.", {"mixer": "conv"}),
}

# Of the networks whose own mixer is Mamba.
MAMBA2 = {"Mamba2": Variant("With Mamba-2 in place of Mamba.", {"mixer": "mamba2"})}


@dataclass(frozen=True)
class RegisteredNetwork:
    """A network under the name that its trainers and planner carry.

    Attributes:
        name: ``SegMamba`` for ``nnUNetTrainerSegMamba``, ``nnunetv2_mamba plan --network SegMamba``.
        network_class: what is built. It has an entry under its own name; others may follow, with other options.
        summary: what it is, in one line of the documentation's tables.
        paper: its address.
        page: its page in this documentation's ``networks/``, without the ending; networks of other packages have none.
        options: of the constructor, where it is not the class with its defaults.
        variants: trainers of their own, by what follows the name; None for the controls and Mamba-2 of a class that has
            the option ``mixer``, and for none of another.
        max_pool: how many stages of a plan halve axes at most; None for as many as nnU-Net has.
        recipe: numbers of the training (``trainers.recipe.Recipe``) that differ from nnU-Net's.
        training: a sentence or two on how it is trained, and why so.
        small: options that make a small instance, for tests of the installation and of the code;
            ``features_per_stage`` is among them where the widths follow a rule.
        module: which registered it, as ``register`` notes.

    Raises:
        ValueError: if ``network_class`` is no :class:`PlannedNetwork`.
    """

    name: str
    network_class: type[PlannedNetwork]
    summary: str
    page: str = ""
    paper: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: Mapping[str, Variant] | None = None
    max_pool: int | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    training: str = "With nnU-Net's recipe: SGD 1e-2, Nesterov momentum 0.99, polynomial decay, deep supervision."
    small: Mapping[str, Any] = field(default_factory=dict)
    module: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.network_class, type) and issubclass(self.network_class, PlannedNetwork)):
            raise ValueError(
                f"the network {self.name} is no subclass of PlannedNetwork; write a trainer for it instead of "
                "registering it (docs/extending.md)"
            )
        if self.variants is None:
            mixes = "mixer" in self.network_class.option_names()
            object.__setattr__(self, "variants", {**CONTROLS, **MAMBA2} if mixes else {})


NETWORKS: dict[str, RegisteredNetwork] = {}


def register(network: RegisteredNetwork) -> None:
    """Add a network. The first of a class has the name of the class, by which plans, trainers and planners find it.

    Raises:
        ValueError: if its name or one of its trainers' is taken, or if its class is not registered under the class's
            own name.
    """
    if network.name in NETWORKS:
        raise ValueError(f"two networks are named {network.name}; give yours another name")
    for other in NETWORKS.values():
        if common := _names_of_trainers(network) & _names_of_trainers(other):
            raise ValueError(
                f"{network.name} and {other.name} would both have a trainer nnUNetTrainer{min(common)}; give your "
                "network or its variant another name"
            )
    class_name = network.network_class.__name__
    named_as_the_class = network if network.name == class_name else NETWORKS.get(class_name)
    if named_as_the_class is None or named_as_the_class.network_class is not network.network_class:
        raise ValueError(f"{network.name} is of the class {class_name}; register that under its own name first")
    NETWORKS[network.name] = replace(network, module=module_of_caller())


def _names_of_trainers(network: RegisteredNetwork) -> set[str]:
    return {network.name, *(network.name + suffix for suffix in network.variants)}
