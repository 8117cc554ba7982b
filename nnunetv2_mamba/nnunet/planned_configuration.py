"""What plans say of a configuration, as plain data: with what it inherits, and what decides how it preprocesses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OF_PLANS = ("image_reader_writer", "transpose_forward", "foreground_intensity_properties_per_channel")
_OF_CONFIGURATIONS = (
    "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip


def planned_configuration(plans: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """What plans of anybody's say of a configuration, with what it inherits; what they do not have is left out."""
    configurations, found, seen = plans.get("configurations"), {}, set()
    while isinstance(configurations, dict) and isinstance(name, str) and name not in seen:
        seen.add(name)
        own = configurations.get(name)
        own = own if isinstance(own, dict) else {}
        found = own | found
        name = own.get("inherits_from")
    return found


def configuration_with_preprocessing(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a training or prediction with a configuration goes by: ``planned_configuration``, and what decides of the
    preprocessing for all configurations."""
    return planned_configuration(plans, name) | {key: plans[key] for key in _OF_PLANS if key in plans}


def preprocessing_of(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What decides how cases are preprocessed for a configuration, by its key in the plans."""
    configuration = planned_configuration(plans, name)
    return {key: plans.get(key) for key in _OF_PLANS} | {key: configuration.get(key) for key in _OF_CONFIGURATIONS}
