"""What a model cost to train, from the ``cost.json`` of its folds, which the verb ``benchmark`` writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median

from ..json_numbers import is_finite_number

# Keys in the file, what they mean, and how many of the file's units are one of the reader's
COSTS = {
    "parameters": ("parameters [million]", 1e6),
    "flops": ("forward pass of a patch [GFLOP]", 1e9),
    "seconds_per_epoch": ("time per epoch [s]", 1),
    "peak_memory.allocated_bytes": ("peak GPU memory, allocated [GiB]", 2**30),
    "peak_memory.reserved_bytes": ("peak GPU memory, reserved [GiB]", 2**30),
    "peak_memory.process_bytes": ("peak memory of the process [GiB]", 2**30),
    "energy_joules": ("energy of a training [kWh]", 3.6e6),
}


def known_costs(costs: Iterable[Mapping[str, float]]) -> list[str]:
    """Find the keys of ``COSTS`` that any of these have, in its order."""
    found = set().union(*costs)
    return [key for key in COSTS if key in found]


def median_costs(costs: Iterable[dict]) -> dict[str, float]:
    """Take the medians over what the ``cost.json`` of several trainings hold.

    Returns:
        By the keys of ``COSTS`` and in their units; what is not known is left out.
    """
    costs = list(costs)
    found = {}
    for key, (_, unit) in COSTS.items():
        values = [_number(cost, key) for cost in costs]
        known = [value / unit for value in values if value is not None]
        if known:
            found[key] = median(known)
    return found


def _number(cost: dict, key: str) -> float | None:
    """Look a number up; None for what is none, NaN and infinity included, which no table, figure or JSON can hold."""
    value: object = cost
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value if is_finite_number(value) else None
