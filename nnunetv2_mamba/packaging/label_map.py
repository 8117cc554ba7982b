"""Logits to labels as ``nnUNetv2_predict`` does it, one class in memory at a time.

nnU-Net resamples all classes to the image's grid, then takes the largest. Its resampling treats each class by itself,
so the largest so far is all that is kept here, and the labels are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import insert_crop_into_image
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from .stored_logits import StoredLogits


def resampler_to_image(
    plans: PlansManager, configuration: ConfigurationManager, properties: dict[str, Any]
) -> Callable[[np.ndarray], np.ndarray]:
    """What resamples logits ``(classes, *spatial)`` to the grid of the image, cropped and with its axes transposed.

    Args:
        properties: of the case, as nnU-Net's preprocessing leaves them.
    """
    target = properties["shape_after_cropping_and_before_resampling"]
    spacing = [properties["spacing"][axis] for axis in plans.transpose_forward]
    current = [*spacing[: len(target) - len(configuration.spacing)], *configuration.spacing]  # 2D models keep slices
    resample = configuration.resampling_fn_probabilities
    return lambda logits: np.asarray(resample(logits, target, current, spacing))


def label_map(
    logits: StoredLogits,
    resample: Callable[[np.ndarray], np.ndarray],
    labels: LabelManager,
    plans: PlansManager,
    properties: dict[str, Any],
) -> np.ndarray:
    """The labels on the image's grid, as ``convert_predicted_logits_to_segmentation_with_correct_shape`` of nnU-Net.

    Args:
        resample: as of ``resampler_to_image``.
        properties: as for it.
    """
    resampled = (resample(logits.read_head(head))[0] for head in range(logits.shape[0]))
    cropped = _of_regions(resampled, labels) if labels.has_regions else _of_the_largest(resampled)
    dtype = np.uint8 if len(labels.foreground_labels) < 255 else np.uint16
    whole = np.zeros(properties["shape_before_cropping"], dtype=dtype)
    whole = insert_crop_into_image(whole, cropped, properties["bbox_used_for_cropping"])
    return whole.transpose(plans.transpose_backward)


def _of_the_largest(classes: Iterable[np.ndarray]) -> np.ndarray:
    """As ``numpy.argmax``: the first of equal ones, and NaN is larger than any number."""
    classes = iter(classes)
    largest = np.array(next(classes))
    labels = np.zeros(largest.shape, dtype=np.uint16)
    for label, values in enumerate(classes, start=1):
        larger = ~(values <= largest)
        larger &= ~np.isnan(largest)
        np.copyto(largest, values, where=larger)
        np.copyto(labels, label, where=larger, casting="unsafe")
    return labels


def _of_regions(regions: Iterable[np.ndarray], manager: LabelManager) -> np.ndarray:
    """Each region's label where it is more likely than not, later ones over earlier ones."""
    labels = None
    for label, values in zip(manager.regions_class_order, regions, strict=True):
        if labels is None:
            labels = np.zeros(values.shape, dtype=np.uint16)
        likely = manager.apply_inference_nonlin(values) > 0.5
        np.copyto(labels, label, where=likely.numpy(), casting="unsafe")
    return labels
