"""What a checkpoint of a fork of nnU-Net says of the plan it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nnunetv2_mamba.text import excerpt

_LONGEST = 1 << 14  # of a stride or an edge of a patch


def plan_of(checkpoint: Mapping) -> dict[str, Any]:
    """Return ``strides`` and ``patch_size`` as far as the checkpoint says them.

    nnU-Net has the strides among the network's arguments since version 2.4, before that as ``pool_op_kernel_sizes``.

    Raises:
        ValueError: for what is no plan, and for sizes that are none.
    """
    arguments = checkpoint.get("init_args")
    if not isinstance(arguments, Mapping):
        return {}
    try:
        plan = _configuration(arguments["plans"]["configurations"], arguments["configuration"])
        planned = plan.get("architecture", {}).get("arch_kwargs", {})
        strides = planned.get("strides", plan.get("pool_op_kernel_sizes"))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"init_args of the checkpoint hold no plan of nnU-Net ({error!r})") from error
    found = {"strides": strides, "patch_size": plan.get("patch_size")}
    found = {name: value for name, value in found.items() if value is not None}
    for name, value in found.items():
        sizes = [value] if name == "patch_size" else value
        if not isinstance(sizes, list | tuple) or not all(map(_is_size, sizes)):
            raise ValueError(f"the plan in the checkpoint's init_args has no sizes as {name}: {excerpt(value)}")
    return found


def _configuration(configurations: Mapping[str, Any], name: str) -> dict[str, Any]:
    plan: dict[str, Any] = {}
    for _ in configurations:  # one may inherit from another, but not all the way round
        plan = {**configurations[name], **plan}
        name = configurations[name].get("inherits_from")
        if not name:
            break
    return plan


def _is_size(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(edge) is int and 0 < edge <= _LONGEST for edge in value)
