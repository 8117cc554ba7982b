"""A model and what runs it: by itself, or as one of several whose predictions are averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from .class_maps import ImageLogits, resampler_to_image
from .network_loading import LoadedModel
from .stored_logits import StoredLogits
from .tile_predictor import Preprocessed, TilePredictor


@dataclass
class Image:
    """A case as nnU-Net's reader gives it.

    Attributes:
        channels: ``(channels, *spatial)``; None once they are released.
        properties: the reader's.
        previous: of a cascade, the labels ``(1, *spatial)`` of the stage before.
    """

    channels: np.ndarray | None
    properties: dict[str, Any]
    previous: np.ndarray | None = None

    def release(self) -> np.ndarray:
        """Give the channels away: nnU-Net works on a copy, and resampling it is the peak of memory."""
        channels, self.channels = self.channels, None
        return channels


class Prepared(NamedTuple):
    """A case on a model's grid.

    Attributes:
        properties: as nnU-Net's preprocessing leaves them.
        resample: as of ``resampler_to_image``.
    """

    case: Preprocessed
    properties: dict[str, Any]
    resample: Callable[[np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.case.images.shape[1:])


class Member:
    """A loaded model.

    Args:
        precision, device, clock, progress: as of ``TilePredictor``.
        temperature: of its logits.
    """

    def __init__(
        self,
        model: LoadedModel,
        precision: str,
        device: str,
        clock: Callable[[], float],
        progress: bool = False,
        temperature: float = 1.0,
    ):
        self.model, self._temperature = model, temperature
        self.tiles = TilePredictor(model, precision, device, clock, progress)

    @property
    def n_heads(self) -> int:
        return self.tiles.label_manager.num_segmentation_heads

    def prepare(self, image: Image, last: bool = False) -> Prepared:
        """Preprocess a case as nnU-Net does.

        Args:
            last: release the image, which no other model needs.
        """
        model, configuration = self.model, self.model.configuration
        preprocessor, properties = configuration.preprocessor_class(verbose=False), dict(image.properties)
        data, labels, properties = preprocessor.run_case_npy(
            image.release() if last else image.channels,
            image.previous,
            properties,
            model.plans,
            configuration,
            model.dataset,
        )
        data = torch.from_numpy(data).to(torch.float32, memory_format=torch.contiguous_format)
        case = Preprocessed(data, None if image.previous is None else torch.from_numpy(labels[0]))
        return Prepared(case, properties, resampler_to_image(model.plans, configuration, properties))

    def shape(self, cropped: Sequence[int], spacing: Sequence[float]) -> tuple[int, ...]:
        """The shape that ``prepare`` gives a case whose crop has this shape and spacing, both as the reader's axes."""
        order, target = self.model.plans.transpose_forward, self.model.configuration.spacing
        old_shape, old_spacing = [cropped[axis] for axis in order], [spacing[axis] for axis in order]
        kept = old_spacing[: len(old_shape) - len(target)]  # 2D models keep the slices
        return tuple(int(edge) for edge in compute_new_shape(old_shape, old_spacing, [*kept, *target]))

    def room_for_logits(self, prepared: Prepared, folder: Path | None) -> StoredLogits:
        """What ``tiles`` stores the logits of a case in."""
        return StoredLogits((self.n_heads, *prepared.shape), folder)

    def maps(self, logits: StoredLogits, prepared: Prepared) -> ImageLogits:
        """The logits that ``tiles`` has stored, on the grid of the image."""
        labels, plans = self.tiles.label_manager, self.model.plans
        return ImageLogits(logits, prepared.resample, labels, plans, prepared.properties, self._temperature)

    def leave_the_device(self) -> None:
        """Make room on a GPU for the next model; ``tiles`` come back when they are used."""
        self.tiles.network.to("cpu")
