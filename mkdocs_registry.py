"""Hooks of ``mkdocs.yml``: what the documentation lists of networks, metrics and platforms, made from their registries.

A page holds ``<!-- registry: NAME -->`` where the text of ``LISTS[NAME]`` belongs.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.packaging.platforms import PLATFORMS

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
    yield "| metric | in tables | definition | in one image only |"
    yield "|---|---|---|---|"
    for metric in METRICS.values():
        definition = metric.definition.replace("|", r"\|")
        one_empty = "infinite, or the diagonal" if metric.one_empty is None else f"{metric.one_empty:g}"
        yield f"| {metric.title} | `{metric.name}` | {definition} | {one_empty} |"


def _metric_names() -> Iterator[str]:
    """The names in tables, within a sentence."""
    yield ", ".join(f"`{name}`" for name in METRICS)


LISTS: dict[str, Callable[[], Iterator[str]]] = {
    "trainers": _trainers,
    "classes": _classes,
    "metrics": _metrics,
    "metric_names": _metric_names,
    "platforms": _platforms,
}


def on_config(config: Any) -> Any:
    """A page per network in the navigation."""
    pages = dict.fromkeys(f"networks/{network.page}.md" for network in NETWORKS.values())
    next(section for section in config.nav if "Networks" in section)["Networks"] = list(pages)
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page."""
    return _MARK.sub(lambda mark: "\n".join(LISTS[mark[1]]()), markdown)
