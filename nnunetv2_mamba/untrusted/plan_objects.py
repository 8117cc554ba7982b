"""What a configuration names, looked up: it must be nnU-Net's, or a network of ours, and the network not too large."""

from __future__ import annotations

import importlib.util
import inspect
import pydoc
import types
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

from ..text import excerpt, short_reason
from .allowed_names import OF_CONFIGURATIONS, RESAMPLING, in_words, named, require

_NETWORK_HOMES = ("dynamic_network_architectures.", "nnunetv2_mamba.architectures.")
_OPERATOR_HOMES = (*_NETWORK_HOMES, "torch.nn.modules.")
_FUNCTION_HOMES = ("torch.nn.functional", "torch.nn.init")
_MOST_WEIGHTS = 1 << 31  # 8 GiB in fp32, some ten times nnU-Net's largest


def check_objects(configuration: dict) -> None:
    if "architecture" in configuration or "UNet_class_name" in configuration:
        _check_network(_as_architecture(configuration), configuration.get("patch_size"))
    for key, name in named(configuration, OF_CONFIGURATIONS):
        found = find_in_nnunet(key, name, *OF_CONFIGURATIONS[key])
        if key in RESAMPLING:
            try:
                inspect.signature(found).bind(None, None, None, None, **configuration.get(f"{key}_kwargs", {}))
            except TypeError as error:
                raise ValueError(f"'{key}_kwargs' does not fit {name}: {error}") from error


def _as_architecture(configuration: dict) -> dict[str, Any]:
    """The configuration's network, of old plans as nnU-Net makes it of them."""
    from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the plans are old
        try:
            return ConfigurationManager(deepcopy(configuration)).configuration["architecture"]
        except (TypeError, IndexError) as error:
            raise ValueError(f"nnU-Net makes no network of it: {error}") from error


def _check_network(architecture: dict[str, Any], patch_size: list[int] | None) -> None:
    from torch import nn

    arguments = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        if arguments[key] is None:
            continue
        operator = _located(arguments[key])
        is_class = isinstance(operator, type) and issubclass(operator, nn.Module)
        require(
            (is_class and operator.__module__.startswith(_OPERATOR_HOMES))
            or (isinstance(operator, types.FunctionType) and operator.__module__ in _FUNCTION_HOMES),
            f"{key!r} is {excerpt(arguments[key])}, which is no module of a network that is defined below "
            f"{in_words(_OPERATOR_HOMES)}",
        )
        arguments[key] = operator
    name = architecture["network_class_name"]
    network = _located(name)
    require(
        isinstance(network, type)
        and issubclass(network, nn.Module)
        and (network.__module__.startswith(_NETWORK_HOMES) or _is_registered(name, network)),
        f"'network_class_name' is {excerpt(name)}, which is no network of {in_words(_NETWORK_HOMES)}"
        + ("; if it is another package's, install that here" if name.startswith(_NETWORK_HOMES[1]) else ""),
    )
    weights = _number_of_weights(network, arguments, patch_size)
    require(weights <= _MOST_WEIGHTS, f"the network {name} would have {weights:,} weights")


def _is_registered(name: str, network: type) -> bool:
    """Whether it is another package's network, which our networks' package has only where it is registered."""
    contract = pydoc.locate("nnunetv2_mamba.architectures.contract.PlannedNetwork")
    return name == f"nnunetv2_mamba.architectures.{network.__name__}" and issubclass(network, contract)


def _located(name: str) -> Any:
    """What nnU-Net will find under a dotted name: an attribute of a module, never what such an attribute has in turn.

    Else ``dynamic_network_architectures.architectures.unet.torch.hub.load`` would lead out of the package.
    """
    module, _, attribute = name.rpartition(".")
    located = None
    try:
        if importlib.util.find_spec(module) is not None:
            located = pydoc.locate(name)
    except ModuleNotFoundError:  # a parent that is missing, or no package
        pass
    except Exception as error:  # whatever an import of a module that is there may raise
        raise ValueError(f"{name} cannot be imported: {error}") from error
    if located is None and name.startswith("dynamic_network_architectures."):
        located = _moved(attribute)
    return located


def _moved(attribute: str) -> Any:
    """nnU-Net's search for a class of dynamic-network-architectures that has moved to another file."""
    import dynamic_network_architectures
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = Path(dynamic_network_architectures.__path__[0], "architectures")
    return recursive_find_python_class(str(folder), attribute, "dynamic_network_architectures.architectures")


def _number_of_weights(network: type, arguments: dict[str, Any], patch_size: list[int] | None) -> int:
    import torch

    arguments = {"input_channels": 1, "num_classes": 2, **arguments}
    # a constructor may hand on to its base class what it does not name
    if any("deep_supervision" in inspect.signature(base.__init__).parameters for base in network.__mro__):
        arguments["deep_supervision"] = True
    try:
        if patch_size and hasattr(network, "patch_options"):  # what architectures/from_plans.py adds to a plan
            arguments = {**network.patch_options(patch_size, arguments), **arguments}
        with torch.device("meta"):
            built = network(**arguments)
    except Exception as error:  # a constructor given anything raises anything
        raise ValueError(
            f"{network.__name__} cannot be built with its 'arch_kwargs': {short_reason(error, 300)}"
        ) from error
    return sum(tensor.numel() for tensor in (*built.parameters(), *built.buffers()))


def find_in_nnunet(key: str, name: str, package: str, base: str | None) -> Any:
    """What nnU-Net finds by the name under ``key`` in one of its packages.

    Args:
        base: the class, in that package, that it must be a subclass of; None for a function.
    """
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    home = f"nnunetv2.{package}"
    found = recursive_find_python_class(str(Path(nnunetv2.__path__[0], *package.split("."))), name, home)
    if base is None:
        valid = isinstance(found, types.FunctionType)
    else:
        valid = isinstance(found, type) and issubclass(found, pydoc.locate(f"{home}.{base}"))
    require(
        valid and found.__module__.startswith(f"{home}."),
        f"{key!r} is {excerpt(name)}, which nnU-Net has not in {home}",
    )
    return found
