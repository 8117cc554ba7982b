"""Options of a network that the user wants in its plans: ``nnunetv2_mamba plan --option KEY=VALUE``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``["gate=multiply", "d_state=32"]`` to a dictionary: values are JSON, a bare word is a string.

    Raises:
        ValueError: for what is no pair, or a key given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier() or not value:
            raise ValueError(
                f"--option {pair}: write KEY=VALUE, such as gate=multiply or n_tom_layers_per_stage=[2,2,3]"
            )
        if key in options:
            raise ValueError(f"--option {key} is given twice")
        try:
            options[key] = json.loads(value, parse_constant=_no_number)
        except ValueError:
            if not value.replace("_", "").isalnum():
                raise ValueError(f"--option {pair}: the value is neither a word nor JSON") from None
            options[key] = value
    return options


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
