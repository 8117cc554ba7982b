"""What dataset.json and a configuration of plans.json must say so that nnU-Net can predict with them."""

from __future__ import annotations

from typing import Any

from nnunetv2.utilities.label_handling.label_handling import LabelManager

from ..nnunet.dataset_description import channels_of
from ..nnunet.planned_configuration import planned_configuration
from ..text import excerpt

_NEEDED = (
    *("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name"),
    *("resampling_fn_data", "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs"),
    *("resampling_fn_probabilities", "resampling_fn_probabilities_kwargs"),
)
_MOST_CHANNELS = 1024


def check_dataset(dataset: Any, file: object) -> None:
    """Check a model's dataset.json.

    Raises:
        ValueError: naming ``file`` and the key.
    """
    if not isinstance(dataset, dict):
        raise ValueError(f"{file} is not nnU-Net's: it holds no JSON object")
    channels = "modality" if "modality" in dataset else "channel_names"
    missing = [key for key in (channels, "labels", "file_ending") if key not in dataset]
    if missing:
        raise ValueError(f"{file} is not nnU-Net's: it has no {', '.join(missing)}")
    for key in (channels, "labels"):
        if not isinstance(dataset[key], dict) or not dataset[key]:
            raise ValueError(f"{file}: {key!r} must be a JSON object in braces, got {excerpt(dataset[key])}")
    numbers = {int(key) for key in dataset[channels] if key.isascii() and key.isdigit() and len(key) < 6}
    if len(numbers) < len(dataset[channels]) or len(numbers) > _MOST_CHANNELS:
        raise ValueError(
            f"{file}: {channels!r} must have a number for each channel, as {{'0': 'T1'}}, got "
            f"{excerpt(dataset[channels])}"
        )
    if not isinstance(dataset["file_ending"], str) or not dataset["file_ending"].startswith("."):
        raise ValueError(f"{file}: 'file_ending' must start with a dot, got {excerpt(dataset['file_ending'])}")
    try:
        LabelManager(dataset["labels"], dataset.get("regions_class_order"))
    except Exception as error:  # it converts whatever it finds
        raise ValueError(f"{file}: nnU-Net cannot use the 'labels': {' '.join(str(error).split())}") from error


def check_configuration(name: str, plans: dict, dataset: dict, file: object) -> list[int]:
    """Check the configuration of plans that ``check_untrusted_plans`` took, with what it inherits.

    Returns:
        Its patch size.

    Raises:
        ValueError: naming ``file``.
    """
    if name not in plans["configurations"]:
        raise ValueError(f"{file} has no configuration {name!r}, of which the checkpoints are")
    configuration = planned_configuration(plans, name)
    missing = [key for key in _NEEDED if key not in configuration]
    if not {"architecture", "UNet_class_name"} & configuration.keys():
        missing.append("architecture")
    if missing:
        raise ValueError(f"{file}: the configuration {name!r} has no {', '.join(missing)}")
    channels = len(channels_of(dataset))
    for key in ("normalization_schemes", "use_mask_for_norm"):
        if len(configuration[key]) < channels:
            raise ValueError(
                f"{file}: the configuration {name!r} has {len(configuration[key])} {key} for {channels} channel(s)"
            )
    for key in ("transpose_forward", "transpose_backward"):
        if len(plans.get(key, ())) != 3:
            raise ValueError(f"{file}: {key!r} must be an order of three axes")
    intensities = plans.get("foreground_intensity_properties_per_channel")
    if intensities is None:
        intensities = plans.get("foreground_intensity_properties_by_modality", {})
    if not {str(channel) for channel in range(channels)} <= set(intensities):
        raise ValueError(f"{file}: 'foreground_intensity_properties_per_channel' is not of {channels} channel(s)")
    return configuration["patch_size"]


def check_mirroring(axes: Any, patch_size: list[int], file: object) -> None:
    """Check the axes that a checkpoint allows to mirror, of which PyTorch takes each once and as a whole number.

    Raises:
        ValueError: naming ``file``.
    """
    if axes is None:
        return
    allowed = range(len(patch_size))
    whole = isinstance(axes, list | tuple) and all(type(axis) is int and axis in allowed for axis in axes)
    if not whole or len(set(axes)) < len(axes):
        raise ValueError(
            f"{file}: inference_allowed_mirroring_axes must be different axes of the patch, below {len(patch_size)}, "
            f"got {excerpt(axes)}"
        )
