"""A stranger's ``plans.json``, checked before nnU-Net imports, calls or allocates anything that it names.

nnU-Net builds a network with ``pydoc.locate(network_class_name)(**arch_kwargs)``: it calls whatever stands there, which
may be ``torch.hub.load``. Here names are checked as text first. Only then are they looked up; what they name must be a
network, which is built without memory, on PyTorch's meta device, to learn how large it is.
"""

from __future__ import annotations

from typing import Any

from ..text import excerpt
from .allowed_names import OF_PLANS, named, require
from .plan_objects import check_objects, find_in_nnunet
from .plan_text import check_identifier, check_text

_DEEPEST = 20
_MOST_CONFIGURATIONS = 100


def check_untrusted_plans(plans: Any, name: object) -> None:
    """Check all that nnU-Net would import, call or allocate by these plans, in every configuration.

    Args:
        plans: what the JSON file says.
        name: of the file, for messages.

    Raises:
        ValueError: for network classes that are not of dynamic-network-architectures or this package, operators that
            are of neither nor of ``torch.nn``, preprocessing that nnU-Net does not know, values of another type than
            nnU-Net's, and patches or networks of absurd size. Nothing is imported before all names are found good as
            text, and nothing is called but the constructor of a network, on the meta device.
    """
    try:
        resolved = _check_document(plans)
        for check in (check_text, check_objects):
            for key, configuration in resolved.items():
                try:
                    check(configuration)
                except ValueError as error:
                    raise ValueError(f"configuration {key!r}: {error}") from error
        for key, wanted in named(plans, OF_PLANS):
            find_in_nnunet(key, wanted, *OF_PLANS[key])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_document(plans: Any) -> dict[str, dict]:
    """Check what stands outside the configurations; return these with what they inherit."""
    require(isinstance(plans, dict), "the plans are no JSON object")
    _check_depth(plans)
    configurations = plans.get("configurations")
    require(isinstance(configurations, dict), "'configurations' is no JSON object")
    require(0 < len(configurations) <= _MOST_CONFIGURATIONS, f"has {len(configurations)} configurations")
    for key, name in named(plans, OF_PLANS):
        check_identifier(key, name)
    orders = [plans.get(key, [0, 1, 2]) for key in ("transpose_forward", "transpose_backward")]
    for key, value in zip(("transpose_forward", "transpose_backward"), orders, strict=True):
        whole = isinstance(value, list) and all(isinstance(axis, int) for axis in value)
        require(whole and sorted(value) == list(range(len(value))), f"{key!r} is no order of axes: {excerpt(value)}")
    forward, backward = orders
    require(
        len(forward) == len(backward) and all(forward[axis] == place for place, axis in enumerate(backward)),
        f"'transpose_backward' {backward} does not undo 'transpose_forward' {forward}",
    )
    for key in ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"):
        value = plans.get(key, {})
        valid = isinstance(value, dict) and all(isinstance(channel, dict) for channel in value.values())
        require(valid, f"{key!r} must have a JSON object for each channel")
    return {key: _inherited(configurations, key) for key in configurations}


def _check_depth(plans: dict) -> None:
    level, depth = [plans], 0
    while level:
        require(depth < _DEEPEST, f"values are nested more than {_DEEPEST} deep")
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        depth += 1


def _inherited(configurations: dict, name: str, heirs: tuple[str, ...] = ()) -> dict:
    """The configuration over those that it inherits from, as nnU-Net resolves them."""
    own = configurations[name]
    require(isinstance(own, dict), f"configuration {name!r} is no JSON object")
    if "inherits_from" not in own:
        return own
    parent, heirs = own["inherits_from"], (*heirs, name)
    require(
        isinstance(parent, str) and parent in configurations,
        f"configuration {name!r} inherits from {excerpt(parent)}, which there is not",
    )
    require(parent not in heirs, f"the configurations {', '.join(map(repr, heirs))} inherit from each other")
    return {**_inherited(configurations, parent, heirs), **own}
