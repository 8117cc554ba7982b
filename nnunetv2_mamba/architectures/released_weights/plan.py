"""What a checkpoint of a fork of nnU-Net says of the plan it was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def plan_of(checkpoint: Mapping) -> dict[str, Any]:
    """Return ``strides`` and ``patch_size`` as far as the checkpoint says them.

    nnU-Net has the strides among the network's arguments since version 2.4, before that as ``pool_op_kernel_sizes``.
    """
    arguments = checkpoint.get("init_args")
    if not isinstance(arguments, Mapping):
        return {}
    configurations, name = arguments["plans"]["configurations"], arguments["configuration"]
    plan: dict[str, Any] = {}
    for _ in configurations:  # one may inherit from another, but not all the way round
        plan = {**configurations[name], **plan}
        name = configurations[name].get("inherits_from")
        if not name:
            break
    planned = plan.get("architecture", {}).get("arch_kwargs", {})
    found = {
        "strides": planned.get("strides", plan.get("pool_op_kernel_sizes")),
        "patch_size": plan.get("patch_size"),
    }
    return {key: value for key, value in found.items() if value is not None}
