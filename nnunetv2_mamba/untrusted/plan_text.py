"""The text of a configuration: names, lists and sizes, checked before anything that they name is looked up."""

from __future__ import annotations

import math
import re
from typing import Any

from ..json_numbers import are_lengths
from ..text import excerpt
from .allowed_names import NETWORK_NAMES, OF_CONFIGURATIONS, OPERATOR_NAMES, RESAMPLING, in_words, named, require
from .network_arguments import LONGEST_LIST, MOST_STAGES, check_numbers

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
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_LONGEST_EDGE, _LARGEST_PATCH = 1 << 14, 1 << 28  # voxels


def check_text(configuration: dict) -> None:
    _check_patch(configuration)
    schemes = configuration.get("normalization_schemes", [])
    require(isinstance(schemes, list) and len(schemes) <= 1024, "'normalization_schemes' is no list")
    for key, name in named(configuration, OF_CONFIGURATIONS):
        check_identifier(key, name)
    require(isinstance(configuration.get("use_mask_for_norm", []), list), "'use_mask_for_norm' is no list")
    for key in RESAMPLING:
        arguments = configuration.get(f"{key}_kwargs", {})
        require(isinstance(arguments, dict), f"'{key}_kwargs' is no JSON object")
        check_numbers(arguments)
    if "architecture" in configuration:
        _check_architecture(configuration["architecture"])
    elif "UNet_class_name" in configuration:
        _check_old_architecture(configuration)


def _check_patch(configuration: dict) -> None:
    if "patch_size" in configuration:
        patch = configuration["patch_size"]
        whole = isinstance(patch, list) and all(type(edge) is int and 0 < edge <= _LONGEST_EDGE for edge in patch)
        require(
            whole and len(patch) in (2, 3) and math.prod(patch) <= _LARGEST_PATCH,
            f"'patch_size' must be two or three whole numbers of voxels above 0, got {excerpt(patch)}",
        )
    if "spacing" in configuration:
        spacing = configuration["spacing"]
        axes = len(configuration.get("patch_size", (0,) * len(spacing) if isinstance(spacing, list) else ()))
        require(
            are_lengths(spacing, axes),
            f"'spacing' must be a number of millimetres above 0 for each axis of the patch, got {excerpt(spacing)}",
        )


def _check_architecture(architecture: Any) -> None:
    require(isinstance(architecture, dict), "'architecture' is no JSON object")
    missing = [key for key in ("network_class_name", "arch_kwargs", "_kw_requires_import") if key not in architecture]
    require(not missing, f"'architecture' has no {', '.join(missing)}")
    _check_dotted("network_class_name", architecture["network_class_name"], NETWORK_NAMES)
    arguments, imports = architecture["arch_kwargs"], architecture["_kw_requires_import"]
    require(isinstance(arguments, dict), "'arch_kwargs' is no JSON object")
    strings = isinstance(imports, list) and all(isinstance(key, str) for key in imports)
    require(strings and len(imports) <= LONGEST_LIST, "'_kw_requires_import' is no list of keys")
    for key in imports:
        require(key in arguments, f"'arch_kwargs' has no {key!r}, which '_kw_requires_import' names")
        if arguments[key] is not None:
            _check_dotted(key, arguments[key], OPERATOR_NAMES)
    check_numbers(arguments)


def _check_old_architecture(configuration: dict) -> None:
    name = configuration["UNet_class_name"]
    require(name in _OLD_CLASSES, f"'UNet_class_name' must be {' or '.join(_OLD_CLASSES)}, got {excerpt(name)}")
    missing = [key for key in (*_OLD_KEYS, "patch_size") if key not in configuration]
    require(not missing, f"has neither an 'architecture' nor, as plans of before nnU-Net 2.4, {', '.join(missing)}")
    check_numbers({key: configuration[key] for key in _OLD_KEYS})
    for key in _OLD_KEYS:
        widths = key.endswith("num_features")
        valid = type(configuration[key]) is int if widths else isinstance(configuration[key], list)
        require(valid, f"{key!r} must be a {'whole number' if widths else 'list'}, got {excerpt(configuration[key])}")
    stages = len(configuration["n_conv_per_stage_encoder"])
    require(stages <= MOST_STAGES, f"'n_conv_per_stage_encoder' has {stages} stages")


def check_identifier(key: str, value: Any) -> None:
    valid = isinstance(value, str) and _IDENTIFIER.fullmatch(value) and "__" not in value
    require(valid, f"{key!r} must be the name of a class or function of nnU-Net, got {excerpt(value)}")


def _check_dotted(key: str, value: Any, beginnings: tuple[str, ...]) -> None:
    parts = value.split(".") if isinstance(value, str) else []
    plain = all(_IDENTIFIER.fullmatch(part) and "__" not in part for part in parts)
    require(
        plain and len(parts) > 1 and value.startswith(beginnings),
        f"{key!r} is {excerpt(value)}, which is not taken from a file: only what is named below "
        f"{in_words(beginnings)} can be trusted",
    )
