"""Sizes that a user may choose: state, heads, inner width."""

from __future__ import annotations

from typing import Any


def check_size(name: str, value: Any, least: int = 1) -> int:
    """Return ``value`` if it is an integer of at least ``least``, 0 or 1.

    Raises:
        ValueError: otherwise, with its ``name``.
    """
    if type(value) is not int or value < least:  # True is an int
        raise ValueError(f"{name} must be {'a positive integer' if least else 'an integer from 0 on'}, got {value!r}")
    return value
