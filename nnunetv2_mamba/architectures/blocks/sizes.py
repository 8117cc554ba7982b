"""Numbers that a user may choose: sizes of state, heads, inner width; rates of dropout."""

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


def check_rate(name: str, value: Any) -> float:
    """Return ``value`` if it is a number from 0 on and below 1: a rate of dropout or drop path.

    Raises:
        ValueError: otherwise, with its ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), got {value!r}")
    return value
