"""The mean over models of what they say of a case, on the grid of its image."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from .class_maps import ClassMaps, Crop, LogitMaps
from .inference_settings import LOGITS
from .stored_logits import StoredLogits


class ModelMean:
    """A sum over models, kept outside of the memory as ``StoredLogits``: one head of one model in memory at a time.

    Each model weighs the same. Probabilities are added up in float32 and in the order of the models, then divided by
    their number, as ``nnUNetv2_ensemble`` does. Close it, or use it as a context.

    Args:
        of: ``probabilities`` or ``logits``, each with its model's temperature.
        folder: as of ``StoredLogits``, 4 bytes for each class and voxel.
    """

    def __init__(self, of: str, folder: Path | None = None):
        self._of_logits, self._folder = of == LOGITS, folder
        self._sums: StoredLogits | None = None
        self._labels: LabelManager | None = None
        self._crop: Crop | None = None
        self.n_models = 0

    def __enter__(self) -> ModelMean:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if self._sums is not None:
            self._sums.close()

    def add(self, maps: LogitMaps) -> None:
        """Add a model's.

        Raises:
            OSError: where the folder has no room.
            ValueError: for a model that crops the image differently.
        """
        if self._sums is None:
            self._labels, self._crop = maps.labels, maps.crop
            self._sums = StoredLogits((maps.n_heads, *maps.crop.size), self._folder, np.float32)
        elif maps.crop != self._crop:
            raise ValueError(f"the models crop the image differently: {maps.crop.box} and {self._crop.box}")
        for head in range(maps.n_heads):
            values = maps.head(head)
            values = maps.tempered(values) if self._of_logits else maps.probability(values)
            if self.n_models:
                before = self._sums.read_head(head)[0]
                values = np.add(before, values, out=before)
            self._sums.write_head(head, values.astype(np.float32, copy=False))
        self.n_models += 1

    def maps(self) -> ClassMaps:
        """What the models say together, good while this is open."""
        kind = _MeanLogits if self._of_logits else _MeanProbabilities
        return kind(self._labels, self._crop, self._sums, self.n_models)


class _Mean(ClassMaps):
    """Of either kind, from the sums."""

    def __init__(self, labels: LabelManager, crop: Crop, sums: StoredLogits, n_models: int):
        super().__init__(labels, crop)
        self._sums, self._n_models = sums, n_models

    def head(self, index: int) -> np.ndarray:
        return self._sums.read_head(index)[0] / np.float32(self._n_models)


class _MeanProbabilities(_Mean):
    def probability(self, values: np.ndarray) -> np.ndarray:
        return values


class _MeanLogits(_Mean, LogitMaps):
    pass
