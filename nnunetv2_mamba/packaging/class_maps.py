"""What a model says of every class on the grid of an image, one class in memory at a time.

Labels, probabilities and means over models are made of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from .stored_logits import StoredLogits


@dataclass(frozen=True)
class Crop:
    """The part of an image that nnU-Net predicts, of the axes as the model's reader gives them.

    Attributes:
        box: a slice of each axis.
        shape: of the whole image.
    """

    box: tuple[slice, ...]
    shape: tuple[int, ...]

    @classmethod
    def of_case(cls, properties: dict[str, Any], plans: PlansManager) -> Crop:
        """The crop of a case with ``properties`` as nnU-Net's preprocessing leaves them: there axes are transposed."""
        box, shape = properties["bbox_used_for_cropping"], properties["shape_before_cropping"]
        order = plans.transpose_backward
        return cls(tuple(slice(*map(int, box[axis])) for axis in order), tuple(int(shape[axis]) for axis in order))

    @property
    def size(self) -> tuple[int, ...]:
        """The shape of the part."""
        return tuple(side.stop - side.start for side in self.box)

    def whole(self, part: np.ndarray, outside: float = 0) -> np.ndarray:
        """The part in its place in an array of the whole image, which has ``outside`` elsewhere."""
        whole = np.full(self.shape, outside, dtype=part.dtype)
        whole[self.box] = part
        return whole


class ClassMaps(ABC):
    """The heads of a network, or of several, on the grid of an image.

    A head is a class, the background first, or a region where the data set has regions, in the order of nnU-Net's label
    manager. Each is made when it is asked for, and not kept.

    Args:
        labels: what the heads are.
        crop: where their arrays lie.
    """

    def __init__(self, labels: LabelManager, crop: Crop):
        self.labels, self.crop = labels, crop

    @property
    def n_heads(self) -> int:
        """How many there are."""
        return self.labels.num_segmentation_heads

    @abstractmethod
    def head(self, index: int) -> np.ndarray:
        """The values of a head in the crop, of any floating type; a class is where its value is the largest."""

    @abstractmethod
    def probability(self, values: np.ndarray) -> np.ndarray:
        """The probabilities, float32, of what ``head`` gave."""

    def whole_probability(self, index: int, values: np.ndarray) -> np.ndarray:
        """As ``probability``, of a head on the whole image: outside of the crop all is background, and no region."""
        background = index == 0 and not self.labels.has_regions
        return self.crop.whole(self.probability(values), outside=float(background))


class LogitMaps(ClassMaps):
    """Logits, whose softmax or, of regions, sigmoid are the probabilities.

    Args:
        temperature: logits are divided by it before they become probabilities; which class is the largest stays.
    """

    def __init__(self, labels: LabelManager, crop: Crop, temperature: float = 1.0):
        super().__init__(labels, crop)
        self._temperature = temperature
        self._largest_and_sum: tuple[np.ndarray, np.ndarray] | None = None

    def tempered(self, values: np.ndarray) -> np.ndarray:
        """What ``head`` gave, divided by the temperature: float32 unless that is 1."""
        return values if self._temperature == 1 else np.divide(values, self._temperature, dtype=np.float32)

    def probability(self, values: np.ndarray) -> np.ndarray:
        """The sigmoid for a region; for a class the softmax, for which all heads are made once before the first."""
        if self.labels.has_regions:
            return self.labels.apply_inference_nonlin(self.tempered(values)).numpy()
        if self._largest_and_sum is None:
            self._largest_and_sum = self._over_all_heads()
        largest, total = self._largest_and_sum
        return _exp(self.tempered(values), largest) / total

    def _over_all_heads(self) -> tuple[np.ndarray, np.ndarray]:
        """The largest logit, and the sum of the exponentials of all after it is taken off them."""
        largest = self.tempered(self.head(0)).astype(np.float32)
        total = np.ones_like(largest)
        for index in range(1, self.n_heads):
            values = self.tempered(self.head(index))
            larger = np.maximum(largest, values, dtype=np.float32)
            total *= _exp(largest, larger)
            total += _exp(values, larger)
            largest = larger
        return largest, total


class ImageLogits(LogitMaps):
    """The logits of one model.

    Args:
        stored: on the model's grid.
        resample: as of ``resampler_to_image``.
        labels: of the model.
        plans: of the model.
        properties: of the case, as nnU-Net's preprocessing leaves them.
        temperature: as of ``LogitMaps``.
    """

    def __init__(
        self,
        stored: StoredLogits,
        resample: Callable[[np.ndarray], np.ndarray],
        labels: LabelManager,
        plans: PlansManager,
        properties: dict[str, Any],
        temperature: float = 1.0,
    ):
        super().__init__(labels, Crop.of_case(properties, plans), temperature)
        self._stored, self._resample, self._axes = stored, resample, plans.transpose_backward

    def head(self, index: int) -> np.ndarray:
        """The logits of a head."""
        return self._resample(self._stored.read_head(index))[0].transpose(self._axes)

    def close(self) -> None:
        """Let go of what is stored; no head can be had after it."""
        self._stored.close()


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


def _exp(values: np.ndarray, less: np.ndarray) -> np.ndarray:
    """``exp(values - less)`` in float32, with one array of that type."""
    distance = np.subtract(values, less, dtype=np.float32)
    return np.exp(distance, out=distance)
