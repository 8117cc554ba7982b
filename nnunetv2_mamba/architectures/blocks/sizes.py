"""Sizes that a user may choose: state, heads, inner width."""

from __future__ import annotations

from typing import Any


def check_size(name: str, value: Any) -> int:
    """Return ``value`` if it is a positive integer.

    Raises:
        ValueError: otherwise, with its ``name``.
    """
    if type(value) is not int or value < 1:  # True is an int
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return value
