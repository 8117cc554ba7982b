"""The registered networks, as tests take them."""

from collections.abc import Mapping, Sequence
from typing import Any

from nnunetv2_mamba.architectures.from_plans import with_options
from nnunetv2_mamba.architectures.registry import NETWORKS

# One network of each class: the first that is registered for it, which has its name.
ONE_OF_EACH_CLASS = [name for name, network in NETWORKS.items() if name == network.network_class.__name__]


def small_arguments(
    name: str, topology: Mapping[str, Any], patch_size: Sequence[int], **options: Any
) -> dict[str, Any]:
    """Arguments for a small instance of the network ``name`` with these stages; ``options`` override the registry's."""
    network = NETWORKS[name]
    chosen = {**network.small, **network.options, **options}
    return with_options(network.network_class, topology, chosen, patch_size)
