"""How large the arguments of a network or a resampling function may be, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..text import excerpt
from .allowed_names import require

# Keys whose numbers are widths or sizes; all other numbers count something, or are a kernel, a stride or a share.
_WIDTHS = re.compile("feature|channel|dim|size|shape|width|grid|tokens")
_LARGEST_WIDTH, _LARGEST_NUMBER, LONGEST_LIST = 1 << 14, 256, 64
MOST_STAGES = 16  # each halves the patch


def check_numbers(arguments: Mapping[str, Any]) -> None:
    """Check that no argument asks for something absurdly large, before anything is called.

    Args:
        arguments: of a network's constructor or another function, as JSON has them; what is neither a number nor holds
            some passes.

    Raises:
        ValueError: naming the argument.
    """
    require(len(arguments) <= LONGEST_LIST, f"there are {len(arguments)} arguments in one place")
    for key, value in arguments.items():
        largest = _LARGEST_WIDTH if _WIDTHS.search(str(key).lower()) else _LARGEST_NUMBER
        largest = MOST_STAGES if key == "n_stages" else largest
        _check_number_or_list(key, value, largest)


def _check_number_or_list(key: str, value: Any, largest: int) -> None:
    if isinstance(value, dict):
        check_numbers(value)
    elif isinstance(value, list):
        require(len(value) <= LONGEST_LIST, f"{key!r} is a list of {len(value)}")
        for inner in value:
            _check_number_or_list(key, inner, largest)
        counts = [inner for inner in value if type(inner) is int]
        if largest == _LARGEST_NUMBER:
            require(sum(counts) <= 4 * _LARGEST_NUMBER, f"{key!r} adds up to {sum(counts)}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        require(abs(value) <= largest, f"{key!r} is absurd: {excerpt(value)}; at most {largest}")  # NaN is not either
