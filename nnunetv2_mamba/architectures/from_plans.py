"""nnU-Net plan to network: the only file here that reads a plan."""

from __future__ import annotations

import pydoc
from typing import Any

from torch import nn

TOPOLOGY_KEYS = ("n_stages", "conv_op", "kernel_sizes", "strides")


def network_from_plans(
    network_class: type[nn.Module],
    configuration_manager: Any,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
    **options: Any,
) -> nn.Module:
    """Build ``network_class`` with the topology of a plan's configuration.

    Strides, kernel sizes and the number of stages come from the plan. Widths and options come from the plan where it
    was made for this class (its ``network_class_name``), else they are the paper's; ``options`` override both.

    A class whose paper takes the plan's widths says so with ``widths_from_plan = True``. A class with arguments that
    follow from the patch size has ``patch_options(patch_size, plan)``, which returns them.

    Args:
        configuration_manager: nnU-Net's ConfigurationManager.

    Raises:
        ValueError: if the plan's architecture has no stages to take (a transformer plan, for example).
    """
    plan = dict(configuration_manager.network_arch_init_kwargs)
    planned_name = configuration_manager.network_arch_class_name
    missing = [key for key in TOPOLOGY_KEYS if key not in plan]
    if missing:
        raise ValueError(
            f"the plan's architecture {planned_name} has no {', '.join(missing)}, from which {network_class.__name__} "
            "takes its stages; use plans of a U-Net, such as nnUNetPlans or nnUNetResEncUNetLPlans"
        )
    for key in configuration_manager.network_arch_init_kwargs_req_import:
        if isinstance(plan.get(key), str):
            plan[key] = pydoc.locate(plan[key])
    if pydoc.locate(planned_name) is not network_class:
        widths = plan.get("features_per_stage") if getattr(network_class, "widths_from_plan", False) else None
        plan = {key: plan[key] for key in TOPOLOGY_KEYS}
        plan["features_per_stage"] = widths or network_class.default_features(plan["n_stages"])
    plan.update(options)
    if hasattr(network_class, "patch_options"):
        plan = {**network_class.patch_options(configuration_manager.patch_size, plan), **plan}
    return network_class(
        input_channels=num_input_channels,
        num_classes=num_output_channels,
        deep_supervision=deep_supervision,
        **plan,
    )
