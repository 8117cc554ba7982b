"""Which components of a label to remove: chosen on some cases, tried on others.

A rule is chosen on all parts of the cases but one and tried on that one, for each of them. So what is reported was seen
on cases that had no part in the choice, but that the volumes to choose from lie between those of all cases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from .boxes import joint_box
from .component_filter import largest_first, n_kept
from .component_rules import NEIGHBOURS, ComponentRule
from .components import connected_components
from .label_map import LabelMap
from .measured_labels import Labels

_MOST_VOLUMES = 64  # that are tried as the smallest
_MOST_LARGEST = 5  # components that are tried as the number of those kept


@dataclass(frozen=True, eq=False)
class CaseComponents:
    """The components of a label in a case.

    Attributes:
        volumes: mm3, the largest first.
        scores: mean Dice of all labels of the case where so many of the largest are kept, from none to all. A label in
            neither image counts 1 here: it is rightly absent.
    """

    volumes: np.ndarray
    scores: np.ndarray

    def gain(self, rule: ComponentRule) -> float:
        """By how much a rule raises the score."""
        return self.scores[n_kept(self.volumes, rule, 1.0)] - self.scores[-1]


@dataclass(frozen=True)
class LabelChoice:
    """What was found for a label.

    Attributes:
        rule: chosen on all cases; None where rules do not help on held-out ones.
        by_part: chosen on the other parts, by part.
        gain: of the mean Dice, on held-out cases.
    """

    rule: ComponentRule | None
    by_part: Mapping[str, ComponentRule]
    gain: float


def choose_rule(cases: Mapping[str, Sequence[CaseComponents]]) -> LabelChoice:
    """Choose the rule of a label, whose cases are given by part; there must be two parts."""
    rules = _candidates([case for part in cases.values() for case in part])
    gains = {part: np.array([[case.gain(rule) for rule in rules] for case in own]) for part, own in cases.items()}
    chosen = {part: _best([other for name, other in gains.items() if name != part]) for part in gains}
    gain = float(np.concatenate([own[:, chosen[part]] for part, own in gains.items()]).mean())
    best = _best(list(gains.values()))
    by_part = {part: rules[index] for part, index in chosen.items()}
    return LabelChoice(rules[best] if best and gain > 0 else None, by_part, gain)


def case_components(reference: LabelMap, prediction: LabelMap, labels: Labels) -> list[CaseComponents]:
    """Find the components of every label of a prediction, and the scores without the small ones.

    Voxels that the reference ignores are part of components, but do not count for the scores.
    """
    counts = _JointCounts(reference.indices, prediction.indices, len(labels.known))
    boxes = find_objects(prediction.indices, max_label=len(labels.known))
    values = indices_of(labels)
    result = []
    for own in values.values():
        box = joint_box([boxes[value - 1] for value in own], prediction.indices.ndim)
        predicted, true = prediction.indices[box], reference.indices[box]
        numbers = connected_components(np.isin(predicted, own), NEIGHBOURS)
        sizes = np.bincount(numbers.ravel())[1:]
        order = largest_first(sizes)
        dice = np.empty((len(values), len(sizes) + 1))
        for row, other in zip(dice, values.values(), strict=True):
            tp, n_prediction, n_reference = counts.of(other)
            lost = lost_tp = 0
            if {*own} & {*other}:
                inside = np.isin(predicted, other) & (true > 0)
                lost = _removed(numbers[inside], order)
                lost_tp = _removed(numbers[inside & np.isin(true, other)], order)
            both = np.broadcast_to(n_prediction - lost + n_reference, row.shape)
            row[:] = np.where(both > 0, 2 * (tp - lost_tp) / np.maximum(both, 1), 1)
        voxel_mm3 = float(np.prod(prediction.geometry.spacing))
        result.append(CaseComponents(sizes[order] * voxel_mm3, dice.mean(axis=0)))
    return result


def indices_of(labels: Labels) -> dict[str, list[int]]:
    """The indices in a ``LabelMap`` of each label, by name."""
    return {label.name: [labels.known.index(value) + 1 for value in label.values] for label in labels.measured}


class _JointCounts:
    """How many voxels have which pair of indices; those of index 0 in the reference do not count."""

    def __init__(self, reference: np.ndarray, prediction: np.ndarray, n_indices: int):
        size = n_indices + 1
        pairs = reference.ravel().astype(np.int64) * size + prediction.ravel()
        self._pairs = np.bincount(pairs, minlength=size * size).reshape(size, size)
        self._pairs[0] = 0

    def of(self, values: Sequence[int]) -> tuple[int, int, int]:
        """Voxels of a label in both images, in the prediction and in the reference."""
        pairs = self._pairs
        return tuple(int(part.sum()) for part in (pairs[np.ix_(values, values)], pairs[:, values], pairs[values]))


def _removed(numbers: np.ndarray, order: np.ndarray) -> np.ndarray:
    """How many voxels, by the numbers of their components, go where the first 0, 1, ... in order are kept."""
    voxels = np.bincount(numbers, minlength=len(order) + 1)[1:][order]
    return voxels.sum() - np.concatenate(([0], np.cumsum(voxels)))


def _candidates(cases: Sequence[CaseComponents]) -> list[ComponentRule]:
    """The rules that are tried, the mildest first: none, then smallest volumes between those that there are."""
    volumes = np.unique(np.concatenate([case.volumes for case in cases]))
    if len(volumes) > _MOST_VOLUMES:
        volumes = volumes[np.linspace(0, len(volumes) - 1, _MOST_VOLUMES).round().astype(int)]
    between = np.sqrt(volumes[1:] * volumes[:-1])
    smallest = [0.0, *(float(f"{volume:.4g}") for volume in between)]
    most = max(len(case.volumes) for case in cases)
    return [
        ComponentRule(volume, largest)
        for largest in (None, *range(min(_MOST_LARGEST, most - 1), 0, -1))
        for volume in smallest
    ]


def _best(gains: Sequence[np.ndarray]) -> int:
    """The first of the columns with the largest mean."""
    return int(np.argmax(np.concatenate(gains).mean(axis=0)))
