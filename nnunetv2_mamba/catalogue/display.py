"""Lists of trainers and networks as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nnunetv2_mamba.architectures.registry import RegisteredNetwork
from nnunetv2_mamba.memory.estimate import GIB

from ..text import printable
from .cost import Cost
from .trainers import TrainerEntry

_GAP = "  "
_RECIPE = 60  # characters; --json has it all


def trainer_table(entries: Sequence[TrainerEntry], with_costs: bool) -> Iterator[str]:
    """Lines: a row per trainer, long recipes cut; under them, why some have no cost."""
    titles = ["trainer", "network", *(["parameters", "GFLOP", "GiB"] if with_costs else []), "origin", "recipe"]
    rows = [
        [
            entry.name,
            entry.network,
            *(_numbers(entry.cost) if with_costs else []),
            entry.origin,
            textwrap.shorten(entry.recipe, _RECIPE, placeholder=" ..."),
        ]
        for entry in entries
    ]
    yield from _table([titles, *rows])
    reasons: dict[str, list[str]] = {}
    for entry in entries:
        if isinstance(entry.cost, str):
            reasons.setdefault(entry.cost, []).append(entry.name)
    for reason, names in reasons.items():
        yield f"no cost of {', '.join(names)}: {printable(reason)}"


def network_table(networks: Sequence[RegisteredNetwork]) -> Iterator[str]:
    """Lines: a row per network."""
    yield from _table([["network", "paper", ""], *([each.name, each.paper, each.summary] for each in networks)])


def network_text(description: Mapping[str, Any]) -> Iterator[str]:
    """Lines: what ``networks.describe`` gives, for people."""
    yield f"{description['name']}: {description['summary']}"
    for key in ("paper", "class", "page"):
        if description[key]:
            yield f"{key:<10}{description[key]}"
    yield from textwrap.wrap(
        description["training"], 110, initial_indent=f"{'training':<10}", subsequent_indent=" " * 10
    )
    yield "\nOptions (nnunetv2_mamba plan --option KEY=VALUE):"
    for name, argument in description["arguments"].items():
        head = f"  {name} = {argument['default']!r}"
        yield from textwrap.wrap(
            f"{head}: {argument['text']}" if argument["text"] else head, 110, subsequent_indent=" " * 6
        )
    yield "\nTrainers, each also in nnU-Net's lengths (_5epochs, ...):"
    costs = description.get("costs")
    titles = ["  trainer", *(["parameters", "GFLOP", "GiB"] if costs else []), ""]
    rows = [
        ["  " + name, *(_numbers(costs[name]) if costs else []), summary]
        for name, summary in description["trainers"].items()
    ]
    yield from _table([titles, *rows])
    for name, cost in (costs or {}).items():
        if isinstance(cost, str):
            yield f"no cost of {name}: {printable(cost)}"


def _numbers(cost: Cost | str | None) -> list[str]:
    if not isinstance(cost, Cost):
        return ["-", "-", "-"]
    return [f"{cost.parameters:,}", f"{cost.flops / 1e9:.1f}", f"{cost.training_bytes / GIB:.2f}"]


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as what is in them; the last is not filled up."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
