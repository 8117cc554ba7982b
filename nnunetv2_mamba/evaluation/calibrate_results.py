"""A temperature for a trained model, fitted on its validation, and what it does to cases that it was not fitted on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from ..text import printable
from .calibration import TEMPERATURES, at_temperature, fit_temperature, has_logits, losses
from .held_out import HeldOutCase, held_out_cases
from .label_map import LabelMap
from .measured_labels import Labels
from .pairings import Pairing, check_probabilities
from .probabilities import LabelProbability, read_probabilities
from .probability_metrics import expected_calibration_error

_DIFFERING = 0.01  # of the labelled voxels; ties of rounding are far below, another training is far above


class Scores(NamedTuple):
    """How good probabilities are; of each the smaller, the better.

    Attributes:
        nll: negative log-likelihood of a voxel, over all voxels with logits; of regions the heads' sum.
        brier: squared distance of a voxel's probabilities to 0 and 1 as the reference has them, over the same voxels.
        ece: by label, what ``evaluate --add probabilities`` calls ECE, the mean over cases.
    """

    nll: float
    brier: float
    ece: dict[str, float]


@dataclass(frozen=True)
class Calibration:
    """What was found.

    Attributes:
        fitted: the temperature of all cases.
        of_parts: fitted on all cases but a part, by the name of the part.
        before, after: scores of all cases, at temperature 1, and each at that which was fitted without its part.
        n_cases: how many there are.
    """

    fitted: float
    of_parts: dict[str, float]
    before: Scores
    after: Scores
    n_cases: int

    @property
    def helps(self) -> bool:
        """Whether the likelihood is larger in cases that were not fitted on."""
        return self.after.nll < self.before.nll

    @property
    def temperature(self) -> float:
        """What the model is to be used with: 1 where it does not help."""
        return self.fitted if self.helps else 1.0

    def as_json(self) -> dict[str, Any]:
        """Write down what was found besides the temperature."""
        return {
            "fitted": self.fitted,
            "fitted_without": self.of_parts,
            "n_cases": self.n_cases,
            "held_out": {"before": self.before._asdict(), "after": self.after._asdict()},
        }

    def in_words(self) -> str:
        """Write what was found, for the terminal."""
        low, high = min(self.of_parts.values()), max(self.of_parts.values())
        rows = {
            "negative log-likelihood": (self.before.nll, self.after.nll),
            "Brier score": (self.before.brier, self.after.brier),
            **{f"ECE of {printable(name)}": (value, self.after.ece[name]) for name, value in self.before.ece.items()},
        }
        table = pd.DataFrame(rows.values(), index=[*rows], columns=["before", "after"])
        verdict = "so it is used" if self.helps else "so 1 is used: nothing changes"
        lines = [
            f"{self.n_cases} cases, each at the temperature fitted on the others of {len(self.of_parts)} parts "
            f"({low:.3f} to {high:.3f}):",
            table.to_string(float_format="%.6f"),
            f"Temperature {self.fitted:.3f} {'helps' if self.helps else 'does not help'} on cases that it was not "
            f"fitted on, {verdict}",
        ]
        if self.fitted in (TEMPERATURES[0], TEMPERATURES[-1]):
            lines.append(f"It is the end of the range that is looked at, {TEMPERATURES[0]:g} to {TEMPERATURES[-1]:g}")
        return "\n".join(lines)


class _Voxels(NamedTuple):
    """Those of a case that count.

    Attributes:
        probabilities: ``(heads, voxels)``.
        members: bool, of the same shape: what the reference says.
        labelled: names of the labels that are in the reference or in the prediction.
    """

    probabilities: np.ndarray
    members: np.ndarray
    labelled: set[str]


class _Sums(NamedTuple):
    """Of a case, ``Scores`` before they are divided."""

    n_voxels: int
    nll: float
    brier: float
    ece: dict[str, float]


def calibrate(pairings: Sequence[Pairing]) -> Calibration:
    """Fit the temperature of a model, on all cases of its validation and on all but a part of them, for each part.

    Parts are those of ``held_out_cases``. One case is in memory at a time, and each is read twice.

    Raises:
        ValueError: as ``held_out_cases``; for missing files of probabilities, those of another training than the
            prediction, and whatever is wrong with a file.
    """
    cases = held_out_cases(pairings)
    check_probabilities(pairings)
    likelihoods = [_losses(case) for case in tqdm(cases, desc="fit", unit="case")]
    parts = list(dict.fromkeys(case.part for case in cases))
    of_parts = {
        part: fit_temperature(sum(own for own, case in zip(likelihoods, cases, strict=True) if case.part != part))
        for part in parts
    }
    measured = [_measure(case, of_parts[case.part]) for case in tqdm(cases, desc="measure", unit="case")]
    before, after = (_scores(sums) for sums in zip(*measured, strict=True))
    return Calibration(fit_temperature(sum(likelihoods)), of_parts, before, after, len(cases))


def _losses(case: HeldOutCase) -> np.ndarray:
    voxels, regions = _read(case), case.pairing.labels.are_regions
    seen = has_logits(voxels.probabilities, regions)
    return losses(voxels.probabilities[:, seen], voxels.members[:, seen], regions)


def _measure(case: HeldOutCase, temperature: float) -> tuple[_Sums, _Sums]:
    """Measure the probabilities as they are, and at a temperature."""
    voxels, labels = _read(case), case.pairing.labels
    seen = has_logits(voxels.probabilities, labels.are_regions)
    members = voxels.members[:, seen]
    compared = (1.0, temperature)
    likelihoods = losses(voxels.probabilities[:, seen], members, labels.are_regions, compared)
    found = []
    for each, nll in zip(compared, likelihoods, strict=True):
        probabilities = at_temperature(voxels.probabilities, each, labels.are_regions)
        brier = np.square(probabilities[:, seen] - members).sum(dtype=np.float64)
        ece = {
            label.name: expected_calibration_error(
                LabelProbability(probabilities[label.head], voxels.members[label.head])
            )
            for label in labels.measured
            if label.name in voxels.labelled
        }
        found.append(_Sums(members.shape[1], nll, brier, ece))
    return found[0], found[1]


def _read(case: HeldOutCase) -> _Voxels:
    pairing, labels = case.pairing, case.pairing.labels
    reference, prediction = case.read()
    file = pairing.probabilities(case.name)
    probabilities = read_probabilities(file, (labels.n_heads, *reference.geometry.shape))
    share = _differing(probabilities, prediction, labels)
    if share > _DIFFERING:
        raise ValueError(
            f"{file} is of another prediction than {pairing.cases[case.name][1]}: {share:.1%} of the labelled voxels "
            "differ; write both again with nnUNetv2_train ... --val --npz"
        )
    counts = reference.indices != 0
    values, predicted = (np.array(labels.known)[image.indices[counts] - 1] for image in (reference, prediction))
    heads = [label.values for label in labels.measured] if labels.are_regions else [(value,) for value in labels.known]
    members = np.stack([np.isin(values, head) for head in heads])
    labelled = {
        label.name for label in labels.measured if members[label.head].any() or np.isin(predicted, label.values).any()
    }
    return _Voxels(probabilities[:, counts], members, labelled)


def _differing(probabilities: np.ndarray, prediction: LabelMap, labels: Labels) -> float:
    """Share of the voxels with a label in which a prediction is not that of the probabilities.

    nnU-Net leaves probabilities as they are where it predicts again without them.
    """
    values = np.array(labels.known)
    differing = labelled = 0
    for heads, indices in zip(probabilities.swapaxes(0, 1), prediction.indices, strict=True):
        decided, segmented = _decided(heads, labels), values[indices - 1]
        differing += np.count_nonzero(decided != segmented)
        labelled += np.count_nonzero((decided != 0) | (segmented != 0))
    return differing / max(1, labelled)


def _decided(probabilities: np.ndarray, labels: Labels) -> np.ndarray:
    """What ``LabelManager.convert_probabilities_to_segmentation`` of nnU-Net makes of ``(heads, ...)``."""
    if not labels.are_regions:
        return np.array(labels.known)[probabilities.argmax(0)]
    decided = np.zeros(probabilities.shape[1:], dtype=int)
    for head, value in zip(probabilities, labels.regions_class_order, strict=False):
        decided[head > 0.5] = value
    return decided


def _scores(cases: Sequence[_Sums]) -> Scores:
    n_voxels = max(1, sum(case.n_voxels for case in cases))
    labels = dict.fromkeys(label for case in cases for label in case.ece)
    return Scores(
        sum(case.nll for case in cases) / n_voxels,
        sum(case.brier for case in cases) / n_voxels,
        {label: fmean(case.ece[label] for case in cases if label in case.ece) for label in labels},
    )
