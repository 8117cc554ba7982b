"""Which values of a JSON or TOML file are numbers to whoever calculates with them."""

import sys


def is_finite_number(value: object) -> bool:
    """Whether it is a number that a float can hold: no truth value, NaN or infinity, and no integer beyond them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def are_lengths(values: object, axes: int = 3) -> bool:
    """Whether it is a list or tuple of a number above 0 for each axis."""
    return (
        isinstance(values, list | tuple)
        and len(values) == axes
        and all(is_finite_number(value) and value > 0 for value in values)
    )
