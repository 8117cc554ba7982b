"""The lesions of two masks: their connected components, and which of one mask belong to which of the other.

Both ways of matching, BraTS's by dilation and the one-to-one matching of panoptic quality, are made of tables that say
how many voxels a component of one image shares with one of the other, so that no lesion needs an image of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import binary_dilation, find_objects

from .boxes import joint_box
from .components import connected_components, neighbourhood
from .metric_options import LesionRule

_DILATION = 18  # BraTS dilates by the voxels that share a face or an edge


@dataclass(frozen=True)
class Lesion:
    """A lesion of the reference with what the prediction has of it.

    Attributes:
        number: in ``Lesions.merged_reference``.
        components: of the prediction that belong to it, by their numbers; none where it is missed.
        n_reference: its voxels.
        n_prediction: voxels of the components.
        tp: voxels of both.
    """

    number: int
    components: tuple[int, ...]
    n_reference: int
    n_prediction: int
    tp: int


@dataclass(frozen=True, eq=False)
class Lesions:
    """The lesions of two masks of one shape, of 1, 2 or 3 dimensions.

    Both masks may be cropped to where either has voxels: what is dilated, and what then touches, does so in the box
    around both, since with an offset the dilation has all smaller ones.

    Attributes:
        reference, prediction: bool.
    """

    reference: np.ndarray
    prediction: np.ndarray
    rule: LesionRule

    @cached_property
    def reference_components(self) -> np.ndarray:
        """Numbers from 1 on, 0 elsewhere."""
        return self._components(self.reference)

    @cached_property
    def prediction_components(self) -> np.ndarray:
        """Numbers from 1 on, 0 elsewhere."""
        return self._components(self.prediction)

    @property
    def n_reference(self) -> int:
        """Components of the reference, of any size."""
        return int(self.reference_components.max(initial=0))

    @property
    def n_prediction(self) -> int:
        """Components of the prediction, of any size."""
        return int(self.prediction_components.max(initial=0))

    def one_to_one(self, least_iou: float) -> int:
        """Count the pairs of components whose IoU is at least ``least_iou``, the largest first, each in one pair."""
        sizes = [np.bincount(numbers.ravel()) for numbers in (self.reference_components, self.prediction_components)]
        own, other, shared = _overlaps(self.reference_components, self.prediction_components)
        iou = shared / (sizes[0][own] + sizes[1][other] - shared)
        matched: tuple[set[int], set[int]] = (set(), set())
        for pair in np.lexsort((other, own, -iou)):
            if iou[pair] >= least_iou and own[pair] not in matched[0] and other[pair] not in matched[1]:
                matched[0].add(own[pair])
                matched[1].add(other[pair])
        return len(matched[0])

    @cached_property
    def merged_reference(self) -> np.ndarray:
        """Numbers of the reference's lesions from 1 on, 0 elsewhere; those that touch when dilated are one."""
        return np.where(self.reference, self._dilated, 0)

    @cached_property
    def merged(self) -> tuple[Lesion, ...]:
        """The lesions of the reference as BraTS counts them, those that touch when dilated as one.

        To each belong the components of the prediction with a voxel in its dilated mask, to the last voxel. A
        component may belong to several.
        """
        sizes = np.bincount(self.merged_reference.ravel())
        component_sizes = np.bincount(self.prediction_components.ravel())
        components: dict[int, list[int]] = {}
        for number, component in self._touching:
            components.setdefault(number, []).append(component)
        shared = np.zeros(len(sizes), dtype=int)  # every component with a voxel in a lesion belongs to it
        own, _, voxels = _overlaps(self.merged_reference, self.prediction_components)
        np.add.at(shared, own, voxels)
        return tuple(
            Lesion(
                number,
                tuple(found := components.get(number, [])),
                int(sizes[number]),
                int(component_sizes[found].sum()),
                int(shared[number]),
            )
            for number in range(1, len(sizes))
        )

    @property
    def n_invented(self) -> int:
        """Components of the prediction that belong to no lesion."""
        return self.n_prediction - len({component for _, component in self._touching})

    def masks(self, lesion: Lesion) -> tuple[np.ndarray, np.ndarray]:
        """Give a lesion and its components as two masks, cropped to the box around both."""
        own, others = self._boxes
        box = joint_box([own[lesion.number - 1], *(others[number - 1] for number in lesion.components)], len(own[0]))
        return (
            self.merged_reference[box] == lesion.number,
            np.isin(self.prediction_components[box], lesion.components),
        )

    @cached_property
    def _boxes(self) -> tuple[list, list]:
        return find_objects(self.merged_reference), find_objects(self.prediction_components)

    @cached_property
    def _dilated(self) -> np.ndarray:
        """The components of the dilated reference: each is what one lesion's dilation gives."""
        if not self.rule.dilation:  # scipy takes 0 for "until nothing changes"
            return self.reference_components
        structure = neighbourhood(self.reference.ndim, _DILATION)
        return self._components(binary_dilation(self.reference, structure, iterations=self.rule.dilation))

    @cached_property
    def _touching(self) -> list[tuple[int, int]]:
        """Lesion, component of the prediction in its dilated mask."""
        lesions, components, _ = _overlaps(self._dilated, self.prediction_components)
        return list(zip(lesions.tolist(), components.tolist(), strict=True))

    def _components(self, mask: np.ndarray) -> np.ndarray:
        return connected_components(mask, self.rule.connectivity)


def _overlaps(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the pairs of numbers that some voxels have, in order, and how many voxels do; 0 is no number."""
    both = (first > 0) & (second > 0)
    base = int(second.max(initial=0)) + 1
    pairs, voxels = np.unique(first[both].astype(np.int64) * base + second[both], return_counts=True)
    return pairs // base, pairs % base, voxels
