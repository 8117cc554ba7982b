"""Continuing a training: which settings it goes on with, and what differs from the checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .recipe import Recipe
from .settings import VARIABLE, with_settings


def settings_to_adopt(
    recipe: Recipe, saved: Mapping[str, Any], explicit: Collection[str], fixed: Sequence[str]
) -> dict[str, Any]:
    """The checkpoint's settings that replace those of ``recipe``: all that differ, but for what the user sets now.

    Args:
        saved: the settings of the checkpoint.
        explicit: the names that the user sets.
        fixed: the names that a checkpoint's tensors depend on.

    Raises:
        ValueError: if the user sets one of ``fixed`` to another value.
    """
    now = asdict(recipe)
    differing = {name: value for name, value in saved.items() if name in now and value != now[name]}
    for name in fixed:
        if name in differing and name in explicit:
            raise ValueError(
                f"{VARIABLE} sets {name}={now[name]!r}, but the training to continue uses {differing[name]!r}; "
                "leave it out, or start a new training without --c"
            )
    adopted = {name: value for name, value in differing.items() if name not in explicit}
    with_settings(recipe, adopted)  # they fit together
    return adopted


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """For each entry of ``saved`` that is another one ``now``, both values in words."""
    return {
        name: f"{value!r} in the checkpoint, {now[name]!r} now"
        for name, value in saved.items()
        if name in now and value != now[name]
    }
