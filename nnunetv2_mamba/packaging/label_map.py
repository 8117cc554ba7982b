"""Labels as ``nnUNetv2_predict`` makes them, one class in memory at a time.

nnU-Net resamples all classes to the image's grid, then takes the largest. Its resampling treats each class by itself,
so the largest so far is all that is kept here, and the labels are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .class_maps import ClassMaps


def label_map(maps: ClassMaps, see: Callable[[int, np.ndarray], None] = lambda index, values: None) -> np.ndarray:
    """The labels on the image's grid, as ``convert_predicted_logits_to_segmentation_with_correct_shape`` of nnU-Net.

    Args:
        see: gets each head's number and values while they are there, in order.
    """
    heads = _seen(maps, see)
    if maps.labels.has_regions:
        labels = _of_regions(map(maps.probability, heads), maps.labels.regions_class_order)
    else:
        labels = _of_the_largest(heads)
    dtype = np.uint8 if len(maps.labels.foreground_labels) < 255 else np.uint16
    return maps.crop.whole(labels.astype(dtype, copy=False))


def _seen(maps: ClassMaps, see: Callable[[int, np.ndarray], None]) -> Iterable[np.ndarray]:
    for index in range(maps.n_heads):
        values = maps.head(index)
        see(index, values)
        yield values


def _of_the_largest(classes: Iterable[np.ndarray]) -> np.ndarray:
    """As ``numpy.argmax``: the first of equal ones, and NaN is larger than any number."""
    classes = iter(classes)
    largest = np.array(next(classes))
    labels = np.zeros_like(largest, dtype=np.uint16)
    for label, values in enumerate(classes, start=1):
        larger = ~(values <= largest)
        larger &= ~np.isnan(largest)
        np.copyto(largest, values, where=larger)
        np.copyto(labels, label, where=larger, casting="unsafe")
    return labels


def _of_regions(probabilities: Iterable[np.ndarray], order: Sequence[int]) -> np.ndarray:
    """Each region's label where it is more likely than not, later ones over earlier ones."""
    labels = None
    for label, values in zip(order, probabilities, strict=True):
        if labels is None:
            labels = np.zeros_like(values, dtype=np.uint16)
        np.copyto(labels, label, where=values > 0.5, casting="unsafe")
    return labels
