"""Options of a network that the user wants in its plans: ``nnunetv2_mamba plan --option KEY=VALUE``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from nnunetv2_mamba.architectures.blocks.fusion import check_fusion
from nnunetv2_mamba.architectures.blocks.mixers import check_mixer
from nnunetv2_mamba.architectures.blocks.scan_paths import check_scan
from nnunetv2_mamba.architectures.blocks.sizes import check_size
from nnunetv2_mamba.untrusted.network_arguments import check_numbers

WIDTHS = "features_per_stage"  # no option of a network, but of its plan: widths, and at most so many stages


def _check_widths(widths: Any) -> None:
    if not isinstance(widths, list) or len(widths) < 2 or not all(type(width) is int and width > 0 for width in widths):
        raise ValueError("write the channels of two stages or more, such as [8,16,32,64]")


# What can be said of a value before the data set is read; the constructor checks all of them.
_CHECKS: dict[str, Callable[[Any], object]] = {
    WIDTHS: _check_widths,
    "fusion": check_fusion,
    "mixer": check_mixer,
    "scan": check_scan,
    **{size: partial(check_size, size) for size in ("d_state", "expand", "headdim")},
}


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
        except (ValueError, RecursionError):
            if not _is_word(value):
                raise ValueError(f"--option {pair}: the value is neither a word nor JSON") from None
            options[key] = value
    return options


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w+]+", value) is not None


def name_of_options(options: Mapping[str, Any]) -> str:
    """What plans with these options are called after: ``{"scan": "hilbert+reverse"}`` gives ``ScanHilbertReverse``.

    Raises:
        ValueError: if a value is neither a word nor a whole number.
    """
    words = []
    for key, value in sorted(options.items()):
        if not _is_word(value) and not (isinstance(value, int) and value >= 0):  # bool is int
            raise ValueError(f"--option {key}={value} makes no name for the plans: give them one with --plans-name")
        words += re.split(r"[_+]+", f"{key}_{value}")
    return "".join(word[:1].upper() + word[1:] for word in words)


def of_stages(options: Mapping[str, Any], entries: Mapping[str, int]) -> dict[str, Any]:
    """Return the options with so many ``entries`` of those that are lists, if they have more.

    As nnU-Net's planners do with the blocks of theirs: how many stages there are depends on patch and configuration.
    """
    return {
        key: value[: entries[key]] if key in entries and isinstance(value, list) else value
        for key, value in options.items()
    }


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse values that no network takes, as far as they are known without building it.

    Raises:
        ValueError: naming the option.
    """
    for key, value in options.items():
        try:
            if key in _CHECKS:
                _CHECKS[key](value)
            check_numbers({key: value})  # else plans could be made of which no other verb would read the model
        except ValueError as error:
            raise ValueError(f"--option {key}={value}: {error}") from None
