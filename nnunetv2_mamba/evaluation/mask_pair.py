"""A label in two images as a pair of masks, with what metrics share: computed when it is first used, and once.

Distances are between two surfaces and MONAI's (``get_mask_edges``, ``get_surface_distance``): the voxels of a mask with
a face neighbour outside of it or of the image are its surface, and a distance is that from the centre of such a voxel
to the nearest centre of the other surface's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance

from .lesions import Lesions
from .metric_options import LesionRule
from .probabilities import LabelProbability


@dataclass(frozen=True, eq=False)
class MaskPair:
    """Two masks of one shape, of 1, 2 or 3 dimensions.

    Voxels outside of the arrays count as outside of the masks, so both may be cropped to where either has voxels.

    Attributes:
        reference, prediction: bool.
        spacing: millimetres, one per dimension.
        diagonal: of the uncropped image, in millimetres.
        thickness: of a voxel along the axes that the arrays do not have, in millimetres (an area where there are two).
        lesion_rule: how lesions are told apart.
        probability: of the label, where it is measured; of the uncropped image.
    """

    reference: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, ...]
    diagonal: float
    thickness: float = 1.0
    lesion_rule: LesionRule = field(default_factory=LesionRule)
    probability: LabelProbability | None = None

    def part(self, reference: np.ndarray, prediction: np.ndarray) -> MaskPair:
        """Give a pair of other masks with the same voxels."""
        return replace(self, reference=reference, prediction=prediction)

    @cached_property
    def n_reference(self) -> int:
        """Voxels of the reference."""
        return int(np.count_nonzero(self.reference))

    @cached_property
    def n_prediction(self) -> int:
        """Voxels of the prediction."""
        return int(np.count_nonzero(self.prediction))

    @cached_property
    def tp(self) -> int:
        """Voxels of both, the true positives."""
        return int(np.count_nonzero(self.reference & self.prediction))

    @property
    def fp(self) -> int:
        """Voxels of the prediction only, the false positives."""
        return self.n_prediction - self.tp

    @property
    def fn(self) -> int:
        """Voxels of the reference only, the false negatives."""
        return self.n_reference - self.tp

    @property
    def voxel_volume(self) -> float:
        """Cubic millimetres."""
        return float(np.prod(self.spacing)) * self.thickness

    @cached_property
    def lesions(self) -> Lesions:
        """The connected components of both masks, and how they match."""
        return Lesions(self.reference, self.prediction, self.lesion_rule)

    @cached_property
    def directed_distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Millimetres, float64: from each surface voxel of the prediction to the reference's surface, and back.

        Neither mask may be empty.
        """
        edges, spacing = get_mask_edges(self.prediction, self.reference, crop=False), self.spacing
        if len(spacing) == 1:  # MONAI before 1.6 measures in planes and volumes only
            edges, spacing = [edge[np.newaxis] for edge in edges], (1.0, *spacing)
        first, second = (
            get_surface_distance(start, end, spacing=spacing).astype(np.float64) for start, end in (edges, edges[::-1])
        )
        return first, second

    @cached_property
    def distances(self) -> np.ndarray:
        """The distances of both directions together."""
        return np.concatenate(self.directed_distances)
