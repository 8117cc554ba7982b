"""nnU-Net plan to network: the only file here that reads a plan. The planners write theirs with its functions."""

from __future__ import annotations

import pydoc
from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_mamba.text import times

from .contract import PlannedNetwork
from .topology import fitting_size, make_topology

TOPOLOGY_KEYS = ("n_stages", "conv_op", "kernel_sizes", "strides")


def stage_arguments(network_class: type[PlannedNetwork], planned: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network for the stages of a plan that was made for another one.

    Args:
        planned: ``arch_kwargs`` of the plan, with at least ``TOPOLOGY_KEYS``.

    Returns:
        The plan's stages or the network's own, the paper's widths or the plan's, and what the network takes from plans
        of its relatives.
    """
    strides, kernels = network_class.stages(planned["strides"], planned["kernel_sizes"])
    arguments = {"n_stages": len(strides), "conv_op": planned["conv_op"], "kernel_sizes": kernels, "strides": strides}
    options = network_class.options_from_plan
    if options and options[0] in planned:
        arguments |= {key: planned[key] for key in options if key in planned}
    widths = planned.get("features_per_stage") if network_class.widths_from_plan else None
    arguments["features_per_stage"] = widths or network_class.default_features(len(strides))
    return arguments


def with_options(
    network_class: type[PlannedNetwork],
    arguments: Mapping[str, Any],
    options: Mapping[str, Any],
    patch_size: Sequence[int],
) -> dict[str, Any]:
    """Return ``arguments`` with ``options``, and what follows from the patch size where neither says it.

    What the network took of the patch size with ``arguments``, and does not take with ``options``, is left out.
    """
    chosen = {**arguments, **options}
    of_patch = network_class.patch_options(patch_size, chosen)
    unused = {*network_class.PATCH_ARGUMENTS} - of_patch.keys() - options.keys()
    return {**of_patch, **{key: value for key, value in chosen.items() if key not in unused}}


def check_patch(network_class: type[PlannedNetwork], arguments: Mapping[str, Any], patch: Sequence[int]) -> None:
    """Raise ValueError for a plan whose patch the network does not compute, with the patch to plan.

    Args:
        arguments: of the constructor.
        patch: size, in voxels.
    """
    topology = make_topology(*(arguments[key] for key in ("n_stages", "features_per_stage", *TOPOLOGY_KEYS[1:])))
    fitting = fitting_size(patch, topology.strides, network_class.takes_one_voxel)
    if tuple(patch) != fitting:
        larger = "" if network_class.takes_one_voxel else ", and larger"
        raise ValueError(
            f"{network_class.__name__} does not take this plan's patches of {times(patch)} voxels: they must be "
            f"multiples of {times(topology.total_stride)}{larger}; plan patches of {times(fitting)} ("
            "nnunetv2_mamba plan --network makes plans with patches that fit)"
        )


def network_from_plans(
    network_class: type[PlannedNetwork],
    configuration_manager: Any,
    num_input_channels: int,
    num_output_channels: int,
    deep_supervision: bool,
    **options: Any,
) -> PlannedNetwork:
    """Build ``network_class`` with the topology of a plan's configuration.

    Strides, kernel sizes and the number of stages come from the plan. Widths and options come from the plan where it
    was made for this class (its ``network_class_name``), else they are the paper's (``stage_arguments``); ``options``
    override both.

    Args:
        configuration_manager: nnU-Net's ConfigurationManager.

    Raises:
        ValueError: if the plan's architecture has no stages to take (a transformer plan, for example), or if the
            network does not take its patch.
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
        plan = stage_arguments(network_class, plan)
    check_patch(network_class, plan, configuration_manager.patch_size)
    return network_class(
        input_channels=num_input_channels,
        num_classes=num_output_channels,
        deep_supervision=deep_supervision,
        **with_options(network_class, plan, options, configuration_manager.patch_size),
    )
