"""The registered networks and their arguments: ``nnunetv2_mamba networks``."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from nnunetv2_mamba import trainers
from nnunetv2_mamba.architectures.registry import NETWORKS, RegisteredNetwork

if TYPE_CHECKING:
    from .cost import Costs

# A line of a docstring's "Args:" that begins an entry: names, colon, text
_ENTRY = re.compile(r"    (?P<names>\w+(?:, \w+)*): (?P<text>.*)")
_MARKUP = re.compile(r"(?::\w+:)?`+[.~]*([^`]*)`+")


def network_of(name: str) -> RegisteredNetwork:
    """Return a network of the registry.

    Raises:
        ValueError: naming those that there are.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network {name!r}; there are {', '.join(NETWORKS)}")
    return NETWORKS[name]


def describe(network: RegisteredNetwork, costs: Costs | None = None) -> dict[str, Any]:
    """Return what is to know of a network, as JSON has it but for costs, which are records.

    Args:
        costs: on a plan: then every trainer of the network has its cost there.
    """
    network_class, trainer = network.network_class, f"nnUNetTrainer{network.name}"
    variants = {trainer + suffix: variant.summary for suffix, variant in network.variants.items()}
    description = {
        "name": network.name,
        "summary": network.summary,
        "paper": network.paper,
        "class": f"{network_class.__module__}.{network_class.__name__}",
        "page": f"docs/networks/{network.page}.md" if network.page else "",
        "training": network.training,
        "arguments": _arguments(network),
        "trainers": {trainer: network.summary, **variants},
    }
    if costs is not None:
        description["costs"] = {name: costs.of(getattr(trainers, name)) for name in description["trainers"]}
    return description


def _arguments(network: RegisteredNetwork) -> dict[str, dict[str, Any]]:
    """Its own options, those that ``plan --option`` takes, with defaults and the words of the docstring."""
    parameters = network.network_class.options()
    texts = argument_texts(network.network_class)
    return {
        name: {"default": network.options.get(name, parameters[name].default), "text": texts.get(name, "")}
        for name in network.network_class.plain_option_names()
    }


def argument_texts(documented: type) -> dict[str, str]:
    """Return what a class's docstring says of each argument in its section ``Args:``, without its markup."""
    _, _, section = _MARKUP.sub(r"\1", inspect.getdoc(documented) or "").partition("\nArgs:\n")
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        entry = _ENTRY.fullmatch(line)
        if entry:
            names = entry["names"].split(", ")
            texts |= dict.fromkeys(names, entry["text"])
        elif line.startswith("        "):
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
        else:
            break
    return texts
