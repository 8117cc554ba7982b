"""The registered networks, as tests take them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest

from nnunetv2_mamba.architectures.from_plans import TOPOLOGY_KEYS, with_options
from nnunetv2_mamba.architectures.registry import NETWORKS
from nnunetv2_mamba.architectures.topology import fitting_size, make_topology

# One network of each class: the first that is registered for it, which has its name.
ONE_OF_EACH_CLASS = [name for name, network in NETWORKS.items() if name == network.network_class.__name__]

# Made of the blocks of MONAI, whose import takes seconds: what is tried with every network is tried with them in the
# slow tests.
OF_MONAI = tuple(name for name, network in NETWORKS.items() if network.page == "monai")


def slow_if_of_monai(names: Iterable[str], prefix: str = "", slow: Callable[[str], bool] = lambda name: False) -> list:
    """Parameters of a test: names that begin with a network's, after ``prefix``; ``slow`` says which others are."""
    is_slow = {name: slow(name) or name.startswith(tuple(prefix + network for network in OF_MONAI)) for name in names}
    return [pytest.param(name, marks=[pytest.mark.slow] * is_slow[name], id=name) for name in is_slow]


def small_arguments(
    name: str, topology: Mapping[str, Any], patch_size: Sequence[int], **options: Any
) -> dict[str, Any]:
    """Arguments for a small instance of the network ``name`` with these stages, or with its own, for this patch.

    Args:
        options: override the registry's.
    """
    network = NETWORKS[name]
    own = own_stages(name, topology)
    chosen = {**network.small, **network.options, **options}
    if "features_per_stage" in chosen:  # of more stages, perhaps
        chosen["features_per_stage"] = chosen["features_per_stage"][: own["n_stages"]]
    return with_options(
        network.network_class, {**topology, **own}, chosen, fitting_size(patch_size, own["strides"], True)
    )


def own_stages(name: str, topology: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the stages that the network makes of those of ``topology``."""
    width = 8  # any
    planned = make_topology(topology["n_stages"], width, *(topology[key] for key in TOPOLOGY_KEYS[1:]))
    strides, kernels = NETWORKS[name].network_class.stages(planned.strides, planned.kernel_sizes)
    return {"n_stages": len(strides), "strides": strides, "kernel_sizes": kernels}


def fitting(name: str, strides: Sequence[Sequence[int]], patch_size: Sequence[int]) -> tuple[int, ...]:
    """The smallest patch around this one that the network, with these strides, takes."""
    return fitting_size(patch_size, strides, NETWORKS[name].network_class.takes_one_voxel)
