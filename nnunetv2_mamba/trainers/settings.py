"""The one way to change a trainer's numbers without writing a class: ``NNUNETV2_MAMBA_SETTINGS``.

The variable holds the path of a ``.toml`` file or, inline, ``key = value`` pairs separated by commas:

    NNUNETV2_MAMBA_SETTINGS="num_epochs=100, initial_lr=1e-3, optimizer='adamw'" nnUNetv2_train ...

The keys are the attributes of the trainer's recipe (``recipe.Recipe``), the values TOML.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from nnunetv2_mamba.files import parse_toml, read_bytes

from .recipe import Recipe

VARIABLE = "NNUNETV2_MAMBA_SETTINGS"

AnyRecipe = TypeVar("AnyRecipe", bound=Recipe)


_LONGEST = 1 << 20  # bytes of a file
_SHOWN = 200  # characters of a value in a message


def read_settings() -> dict[str, Any]:
    """Return what ``NNUNETV2_MAMBA_SETTINGS`` says; empty if it is not set.

    Raises:
        OSError: if it names a file that is not there or cannot be read.
        ValueError: if it is not TOML.
    """
    value = os.environ.get(VARIABLE, "").strip()
    from_file = value.endswith(".toml")
    if from_file and not Path(value).is_file():
        raise FileNotFoundError(f"{VARIABLE} names {value}, which does not exist; correct the path or unset it")
    try:
        # an inline table of TOML is exactly a list of pairs
        document = read_bytes(Path(value), _LONGEST).decode("utf-8-sig") if from_file else f"settings = {{{value}}}"
        parsed = parse_toml(document)
        if not from_file and set(parsed) != {"settings"}:
            raise ValueError("its braces do not match")
    except ValueError as error:
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise ValueError(
            f"{VARIABLE}={shown!r} is not TOML ({error}); write the path of a .toml file or pairs such as "
            "num_epochs=100, optimizer='adamw'"
        ) from error
    return parsed if from_file else parsed["settings"]


def with_settings(recipe: AnyRecipe, settings: Mapping[str, Any]) -> AnyRecipe:
    """Return ``recipe`` with ``settings`` in it.

    Raises:
        ValueError: for a key that the recipe has not or does not use (listing the others) or a value that does not fit.
    """
    allowed = [entry.name for entry in fields(recipe) if entry.name not in recipe.UNUSED]
    unknown = sorted(set(settings) - set(allowed))
    if unknown:
        raise ValueError(f"{VARIABLE}: unknown setting {', '.join(unknown)}; this trainer knows {', '.join(allowed)}")
    try:
        return replace(recipe, **settings)
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from error
