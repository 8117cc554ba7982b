"""Hooks of ``mkdocs.yml``: what the documentation lists of networks, trainers, metrics and platforms, made from code.

A page holds ``<!-- registry: NAME -->`` where the text of ``LISTS[NAME]`` belongs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import Any

import nnunetv2_mamba
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.packaging.platforms import PLATFORMS
from nnunetv2_mamba.trainers import FULL_LENGTH
from nnunetv2_mamba.trainers.lengths import LENGTHS
from nnunetv2_mamba.trainers.papers import PAPER_TRAINERS
from nnunetv2_mamba.trainers.recipe import Recipe

_MARK = re.compile(r"<!-- registry: (\w+) -->")


def _trainers() -> Iterator[str]:
    """A table: every network's trainer and those of its variants."""
    yield "| trainer | what it trains | recipe |"
    yield "|---|---|---|"
    for network in NETWORKS.values():
        numbers = ", ".join(f"`{name}={value!r}`" for name, value in network.recipe.items())
        page = f"[{network.name}](networks/{network.page}.md)"
        yield f"| `nnUNetTrainer{network.name}` | {page}: {network.summary} | {numbers or 'nnU-Net’s'} |"
        for suffix, variant in network.variants.items():
            changed = ", ".join(f"`{name}={value!r}`" for name, value in variant.recipe.items())
            yield f"| `…{suffix}` | {variant.summary} | {changed or 'as above'} |"


def _paper_trainers() -> Iterator[str]:
    """A table: the trainers that follow papers."""
    yield "| trainer | network | what it follows |"
    yield "|---|---|---|"
    for trainer in PAPER_TRAINERS:
        network = NETWORKS[trainer.network_name]
        title = inspect.getdoc(trainer).splitlines()[0]
        yield f"| `{trainer.__name__}` | [{network.name}](networks/{network.page}.md) | {title} |"


def _lengths() -> Iterator[str]:
    """What follows a trainer's name, within a sentence."""
    yield _within_a_sentence(LENGTHS)


def _settings() -> Iterator[str]:
    """The settings of all trainers, and what the trainers of other recipes have besides."""
    common = [entry.name for entry in fields(Recipe)]
    yield f"- of every trainer: {_within_a_sentence(common)}"
    recipes: dict[type[Recipe], list[str]] = {}
    for name, trainer in FULL_LENGTH.items():
        recipes.setdefault(type(trainer.recipe), []).append(name)
    for recipe, trainers in recipes.items():
        if recipe is not Recipe:
            added = [entry.name for entry in fields(recipe) if entry.name not in common]
            unused = [name for name in common if name in recipe.UNUSED]
            without = f", but not {_within_a_sentence(unused)}" if unused else ""
            yield f"- of {_within_a_sentence(trainers)} also {_within_a_sentence(added)}{without}"


def _within_a_sentence(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _network_names() -> Iterator[str]:
    """As ``nnunetv2_mamba plan --network`` takes them, within a sentence."""
    yield ", ".join(NETWORKS)


def _network_of_each_class() -> Iterator[str]:
    """Those that are named as their class, within a sentence."""
    yield ", ".join(name for name, network in NETWORKS.items() if network.network_class.__name__ == name)


def _network_pages() -> Iterator[str]:
    """A link to every page about networks, within a sentence."""
    names: dict[str, list[str]] = {}
    for network in NETWORKS.values():
        names.setdefault(network.page, []).append(network.name)
    yield "; ".join(f"[{', '.join(networks)}](networks/{page}.md)" for page, networks in names.items())


def _max_pools() -> Iterator[str]:
    """How often the networks halve an axis at most, within a sentence."""
    names: dict[int, list[str]] = {}
    for network in NETWORKS.values():
        if network.max_pool is not None:
            names.setdefault(network.max_pool, []).append(network.name)
    yield "; ".join(f"{', '.join(names[times])} {times} times" for times in sorted(names))


def _classes() -> Iterator[str]:
    """The API of every class of networks."""
    for network_class in dict.fromkeys(network.network_class for network in NETWORKS.values()):
        yield f"::: {network_class.__module__}.{network_class.__name__}\n"


def _platforms() -> Iterator[str]:
    """A table, and a paragraph for each."""
    platforms = list(PLATFORMS.values())
    rows = {
        "": [platform.title for platform in platforms],
        "---": ["---"] * len(platforms),
        "input": [platform.reads for platform in platforms],
        "output": [platform.writes for platform in platforms],
        "weights": [
            "in the image" if platform.model_in_image else "`model.tar.gz`, uploaded apart, at `/opt/ml/model`"
            for platform in platforms
        ],
        "called as": [platform.called_as for platform in platforms],
        "user": [platform.user for platform in platforms],
        "memory": [f"{platform.memory_gb} GB" for platform in platforms],
    }
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(cells)} |"
    for platform in platforms:
        yield f"\n**{platform.title}.** {inspect.getdoc(type(platform))}"


def _metrics() -> Iterator[str]:
    """A table: every metric with its definition."""
    in_one = {"distance": "infinite, or the diagonal", "function": "as defined"}
    yield "| metric | in tables | definition | in one image only | measured |"
    yield "|---|---|---|---|---|"
    for metric in METRICS.values():
        definition = metric.definition.replace("|", r"\|")
        one_empty = in_one[metric.one_empty] if isinstance(metric.one_empty, str) else f"{metric.one_empty:g}"
        measured = f"`--add {metric.group}`" if metric.group else "always"
        yield f"| {metric.title} | `{metric.name}` | {definition} | {one_empty} | {measured} |"


def _metric_names() -> Iterator[str]:
    """The names in tables, within a sentence."""
    yield _within_a_sentence(METRICS)


LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "trainers": _trainers,
    "paper_trainers": _paper_trainers,
    "lengths": _lengths,
    "settings": _settings,
    "network_names": _network_names,
    "network_of_each_class": _network_of_each_class,
    "network_pages": _network_pages,
    "max_pools": _max_pools,
    "classes": _classes,
    "metrics": _metrics,
    "metric_names": _metric_names,
    "platforms": _platforms,
}


def on_config(config: Any) -> Any:
    """The version below every page, and a page per network in the navigation, before what stands there."""
    config.copyright = f"nnunetv2-mamba {nnunetv2_mamba.__version__}"
    pages = dict.fromkeys(f"networks/{network.page}.md" for network in NETWORKS.values())
    section = next(section for section in config.nav if "Networks" in section)
    section["Networks"] = [*pages, *section["Networks"]]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page."""
    return _MARK.sub(lambda mark: "\n".join(LISTS[mark[1]]()), markdown)
