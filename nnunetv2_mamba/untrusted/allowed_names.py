"""What plans may name: the beginnings of dotted names, and where nnU-Net finds what plans name without a path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

# What names may start with; where what they name must be defined is in plan_objects.py.
NETWORK_NAMES = ("dynamic_network_architectures.", "nnunetv2_mamba.")
OPERATOR_NAMES = (*NETWORK_NAMES, "torch.nn.")
# What nnU-Net finds by its name: the package in which it looks, and of what class therein it must be; None: a function.
OF_PLANS = {
    "image_reader_writer": ("imageio", "base_reader_writer.BaseReaderWriter"),
    "label_manager": ("utilities.label_handling", "label_handling.LabelManager"),
}
RESAMPLING = ("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities")
OF_CONFIGURATIONS = {
    "preprocessor_name": ("preprocessing", "preprocessors.default_preprocessor.DefaultPreprocessor"),
    "normalization_schemes": ("preprocessing.normalization", "default_normalization_schemes.ImageNormalization"),
    **dict.fromkeys(RESAMPLING, ("preprocessing.resampling", None)),
}


def named(document: Mapping[str, Any], keys: Iterable[str]) -> list[tuple[str, Any]]:
    """The key and the name of everything that the document lets nnU-Net find; normalization schemes are several."""
    values = [(key, document[key]) for key in keys if key in document]
    return [(key, name) for key, value in values for name in (value if key == "normalization_schemes" else [value])]


def require(condition: object, message: str) -> None:
    if not condition:
        raise ValueError(message)


def in_words(names: Collection[str]) -> str:
    return ", ".join(name.rstrip(".") for name in names)
