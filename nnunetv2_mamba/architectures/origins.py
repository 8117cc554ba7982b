"""Where the parts of a network are defined: here, or in another package that registered them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .blocks.mixers import MIXERS
from .blocks.scan_paths import PATHS
from .contract import PlannedNetwork


def modules_of_parts(network_class: Any, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the modules of a network's class, mixer and scan order, by what they are in words.

    Args:
        network_class: what is no :class:`.PlannedNetwork` has no parts that are known here.
        options: of its constructor; names that nobody registered are left out.
    """
    if not (isinstance(network_class, type) and issubclass(network_class, PlannedNetwork)):
        return {}
    modules = {f"network {network_class.__name__}": network_class.__module__}
    mixer, scan = options.get("mixer"), options.get("scan")
    if mixer in MIXERS:
        modules[f"mixer {mixer}"] = MIXERS[mixer].__module__
    if scan in PATHS:
        modules[f"scan order {scan}"] = PATHS[scan].module
    return modules
