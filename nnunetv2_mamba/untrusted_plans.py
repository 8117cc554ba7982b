"""A stranger's ``plans.json``, checked before nnU-Net imports, calls or allocates anything that it names.

nnU-Net builds a network with ``pydoc.locate(network_class_name)(**arch_kwargs)``: it calls whatever stands there, which
may be ``torch.hub.load``. Here names are checked as text first. Only then are they looked up; what they name must be a
network, which is built without memory, on PyTorch's meta device, to learn how large it is.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
import pydoc
import re
import types
import warnings
from collections.abc import Collection, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from .text import excerpt, short_reason

# What names may start with, and where what they name must be defined: nnunetv2_mamba.SegMamba is of .architectures.
_NETWORK_NAMES = ("dynamic_network_architectures.", "nnunetv2_mamba.")
_OPERATOR_NAMES = (*_NETWORK_NAMES, "torch.nn.")
_NETWORK_HOMES = ("dynamic_network_architectures.", "nnunetv2_mamba.architectures.")
_OPERATOR_HOMES = (*_NETWORK_HOMES, "torch.nn.modules.")
_FUNCTION_HOMES = ("torch.nn.functional", "torch.nn.init")
_OLD_CLASSES = ("PlainConvUNet", "ResidualEncoderUNet")
# Of plans before nnU-Net 2.4, which makes an architecture of them.
_OLD_KEYS = (
    "UNet_base_num_features",
    "unet_max_num_features",
    "n_conv_per_stage_encoder",
    "n_conv_per_stage_decoder",
    "num_pool_per_axis",
    "pool_op_kernel_sizes",
    "conv_kernel_sizes",
)
# What nnU-Net finds by its name: the package in which it looks, and of what class therein it must be; None: a function.
_OF_PLANS = {
    "image_reader_writer": ("imageio", "base_reader_writer.BaseReaderWriter"),
    "label_manager": ("utilities.label_handling", "label_handling.LabelManager"),
}
_RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
_OF_CONFIGURATIONS = {
    "preprocessor_name": ("preprocessing", "preprocessors.default_preprocessor.DefaultPreprocessor"),
    "normalization_schemes": ("preprocessing.normalization", "default_normalization_schemes.ImageNormalization"),
    **dict.fromkeys(_RESAMPLING, ("preprocessing.resampling", None)),
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
# Keys whose numbers are widths or sizes; all other numbers count something, or are a kernel, a stride or a share.
_WIDTHS = re.compile("feature|channel|dim|size|shape|width|grid|tokens")
_LARGEST_WIDTH, _LARGEST_NUMBER, _LONGEST_LIST = 1 << 14, 256, 64
_MOST_STAGES = 16  # each halves the patch
_MOST_WEIGHTS = 1 << 31  # 8 GiB in fp32, some ten times nnU-Net's largest
_LONGEST_EDGE, _LARGEST_PATCH = 1 << 14, 1 << 28  # voxels
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
        for check in (_check_text, _check_objects):
            for key, configuration in resolved.items():
                try:
                    check(configuration)
                except ValueError as error:
                    raise ValueError(f"configuration {key!r}: {error}") from error
        for key, wanted in _named(plans, _OF_PLANS):
            _find_in_nnunet(key, wanted, *_OF_PLANS[key])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_numbers(arguments: Mapping[str, Any]) -> None:
    """Check that no argument of a network makes it absurdly large, before anything is built.

    Args:
        arguments: of the constructor, as JSON has them; what is neither a number nor holds some passes.

    Raises:
        ValueError: naming the argument.
    """
    _require(len(arguments) <= _LONGEST_LIST, f"the network has {len(arguments)} arguments")
    for key, value in arguments.items():
        largest = _LARGEST_WIDTH if _WIDTHS.search(str(key).lower()) else _LARGEST_NUMBER
        largest = _MOST_STAGES if key == "n_stages" else largest
        _check_number_or_list(key, value, largest)


# As text


def _check_document(plans: Any) -> dict[str, dict]:
    """Check what stands outside the configurations; return these with what they inherit."""
    _require(isinstance(plans, dict), "the plans are no JSON object")
    _check_depth(plans)
    configurations = plans.get("configurations")
    _require(isinstance(configurations, dict), "'configurations' is no JSON object")
    _require(0 < len(configurations) <= _MOST_CONFIGURATIONS, f"has {len(configurations)} configurations")
    for key, name in _named(plans, _OF_PLANS):
        _check_identifier(key, name)
    for key in ("transpose_forward", "transpose_backward"):
        value = plans.get(key, [0, 1, 2])
        whole = isinstance(value, list) and all(isinstance(axis, int) for axis in value)
        _require(whole and sorted(value) == list(range(len(value))), f"{key!r} is no order of axes: {excerpt(value)}")
    for key in ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"):
        value = plans.get(key, {})
        valid = isinstance(value, dict) and all(isinstance(channel, dict) for channel in value.values())
        _require(valid, f"{key!r} must have a JSON object for each channel")
    return {key: _inherited(configurations, key) for key in configurations}


def _check_depth(plans: dict) -> None:
    level, depth = [plans], 0
    while level:
        _require(depth < _DEEPEST, f"values are nested more than {_DEEPEST} deep")
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        depth += 1


def _inherited(configurations: dict, name: str, heirs: tuple[str, ...] = ()) -> dict:
    """The configuration over those that it inherits from, as nnU-Net resolves them."""
    own = configurations[name]
    _require(isinstance(own, dict), f"configuration {name!r} is no JSON object")
    if "inherits_from" not in own:
        return own
    parent, heirs = own["inherits_from"], (*heirs, name)
    _require(
        isinstance(parent, str) and parent in configurations,
        f"configuration {name!r} inherits from {excerpt(parent)}, which there is not",
    )
    _require(parent not in heirs, f"the configurations {', '.join(map(repr, heirs))} inherit from each other")
    return {**_inherited(configurations, parent, heirs), **own}


def _check_text(configuration: dict) -> None:
    _check_patch(configuration)
    schemes = configuration.get("normalization_schemes", [])
    _require(isinstance(schemes, list) and len(schemes) <= 1024, "'normalization_schemes' is no list")
    for key, name in _named(configuration, _OF_CONFIGURATIONS):
        _check_identifier(key, name)
    _require(isinstance(configuration.get("use_mask_for_norm", []), list), "'use_mask_for_norm' is no list")
    for key in _RESAMPLING:
        _require(isinstance(configuration.get(f"{key}_kwargs", {}), dict), f"'{key}_kwargs' is no JSON object")
    if "architecture" in configuration:
        _check_architecture(configuration["architecture"])
    elif "UNet_class_name" in configuration:
        _check_old_architecture(configuration)


def _named(document: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, Any]]:
    """The key and the name of everything that the document lets nnU-Net find; normalization schemes are several."""
    values = [(key, document[key]) for key in keys if key in document]
    return [(key, name) for key, value in values for name in (value if key == "normalization_schemes" else [value])]


def _check_patch(configuration: dict) -> None:
    if "patch_size" in configuration:
        patch = configuration["patch_size"]
        whole = isinstance(patch, list) and all(_is_whole(edge) and 0 < edge <= _LONGEST_EDGE for edge in patch)
        _require(
            whole and len(patch) in (2, 3) and math.prod(patch) <= _LARGEST_PATCH,
            f"'patch_size' must be two or three whole numbers of voxels above 0, got {excerpt(patch)}",
        )
    if "spacing" in configuration:
        spacing = configuration["spacing"]
        axes = len(configuration.get("patch_size", (0,) * len(spacing) if isinstance(spacing, list) else ()))
        valid = isinstance(spacing, list) and all(_is_number(value) and value > 0 for value in spacing)
        _require(
            valid and len(spacing) == axes,
            f"'spacing' must be a number of millimetres above 0 for each axis of the patch, got {excerpt(spacing)}",
        )


def _check_architecture(architecture: Any) -> None:
    _require(isinstance(architecture, dict), "'architecture' is no JSON object")
    missing = [key for key in ("network_class_name", "arch_kwargs", "_kw_requires_import") if key not in architecture]
    _require(not missing, f"'architecture' has no {', '.join(missing)}")
    _check_dotted("network_class_name", architecture["network_class_name"], _NETWORK_NAMES)
    arguments, imports = architecture["arch_kwargs"], architecture["_kw_requires_import"]
    _require(isinstance(arguments, dict), "'arch_kwargs' is no JSON object")
    strings = isinstance(imports, list) and all(isinstance(key, str) for key in imports)
    _require(strings and len(imports) <= _LONGEST_LIST, "'_kw_requires_import' is no list of keys")
    for key in imports:
        _require(key in arguments, f"'arch_kwargs' has no {key!r}, which '_kw_requires_import' names")
        if arguments[key] is not None:
            _check_dotted(key, arguments[key], _OPERATOR_NAMES)
    check_numbers(arguments)


def _check_old_architecture(configuration: dict) -> None:
    name = configuration["UNet_class_name"]
    _require(name in _OLD_CLASSES, f"'UNet_class_name' must be {' or '.join(_OLD_CLASSES)}, got {excerpt(name)}")
    missing = [key for key in (*_OLD_KEYS, "patch_size") if key not in configuration]
    _require(not missing, f"has neither an 'architecture' nor, as plans of before nnU-Net 2.4, {', '.join(missing)}")
    check_numbers({key: configuration[key] for key in _OLD_KEYS})
    for key in _OLD_KEYS:
        widths = key.endswith("num_features")
        valid = _is_whole(configuration[key]) if widths else isinstance(configuration[key], list)
        _require(valid, f"{key!r} must be a {'whole number' if widths else 'list'}, got {excerpt(configuration[key])}")
    stages = len(configuration["n_conv_per_stage_encoder"])
    _require(stages <= _MOST_STAGES, f"'n_conv_per_stage_encoder' has {stages} stages")


def _check_number_or_list(key: str, value: Any, largest: int) -> None:
    if isinstance(value, dict):
        check_numbers(value)
    elif isinstance(value, list):
        _require(len(value) <= _LONGEST_LIST, f"{key!r} is a list of {len(value)}")
        for inner in value:
            _check_number_or_list(key, inner, largest)
        counts = [inner for inner in value if _is_whole(inner)]
        if largest == _LARGEST_NUMBER:
            _require(sum(counts) <= 4 * _LARGEST_NUMBER, f"{key!r} adds up to {sum(counts)}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _require(_is_number(value) and abs(value) <= largest, f"{key!r} is absurd: {excerpt(value)}; at most {largest}")


def _check_identifier(key: str, value: Any) -> None:
    valid = isinstance(value, str) and _IDENTIFIER.fullmatch(value) and "__" not in value
    _require(valid, f"{key!r} must be the name of a class or function of nnU-Net, got {excerpt(value)}")


def _check_dotted(key: str, value: Any, beginnings: tuple[str, ...]) -> None:
    parts = value.split(".") if isinstance(value, str) else []
    plain = all(_IDENTIFIER.fullmatch(part) and "__" not in part for part in parts)
    _require(
        plain and len(parts) > 1 and value.startswith(beginnings),
        f"{key!r} is {excerpt(value)}, which is not taken from a file: only what is named below "
        f"{_words(beginnings)} can be trusted",
    )


# As objects


def _check_objects(configuration: dict) -> None:
    if "architecture" in configuration or "UNet_class_name" in configuration:
        _check_network(_as_architecture(configuration), configuration.get("patch_size"))
    for key, name in _named(configuration, _OF_CONFIGURATIONS):
        found = _find_in_nnunet(key, name, *_OF_CONFIGURATIONS[key])
        if key in _RESAMPLING:
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
        _require(
            (is_class and operator.__module__.startswith(_OPERATOR_HOMES))
            or (isinstance(operator, types.FunctionType) and operator.__module__ in _FUNCTION_HOMES),
            f"{key!r} is {excerpt(arguments[key])}, which is no module of a network that is defined below "
            f"{_words(_OPERATOR_HOMES)}",
        )
        arguments[key] = operator
    name = architecture["network_class_name"]
    network = _located(name)
    _require(
        isinstance(network, type)
        and issubclass(network, nn.Module)
        and (network.__module__.startswith(_NETWORK_HOMES) or _is_registered(name, network)),
        f"'network_class_name' is {excerpt(name)}, which is no network of {_words(_NETWORK_HOMES)}"
        + ("; if it is another package's, install that here" if name.startswith(_NETWORK_HOMES[1]) else ""),
    )
    weights = _number_of_weights(network, arguments, patch_size)
    _require(weights <= _MOST_WEIGHTS, f"the network {name} would have {weights:,} weights")


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


def _find_in_nnunet(key: str, name: str, package: str, base: str | None) -> Any:
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
    _require(
        valid and found.__module__.startswith(f"{home}."),
        f"{key!r} is {excerpt(name)}, which nnU-Net has not in {home}",
    )
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _words(names: Collection[str]) -> str:
    return ", ".join(name.rstrip(".") for name in names)
