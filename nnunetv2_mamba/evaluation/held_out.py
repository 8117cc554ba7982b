"""A model's validation in parts, each of which is held out once while something is fitted on the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ..text import first_few
from .case_measurement import read_pair
from .label_map import LabelMap
from .pairings import Pairing

_PARTS = 5  # of the cases, where they are of one fold


class HeldOutCase(NamedTuple):
    """A case, and the part of the cases with which it is held out."""

    part: str
    pairing: Pairing
    name: str

    def read(self) -> tuple[LabelMap, LabelMap]:
        """The reference and the prediction."""
        return read_pair(*self.pairing.cases[self.name], self.pairing.reader, self.pairing.labels)


def held_out_cases(pairings: Sequence[Pairing]) -> list[HeldOutCase]:
    """Give all cases: a part is a fold or, of one fold, every fifth case.

    Raises:
        ValueError: for a validation of training cases, cases that several folds have, and a single case.
    """
    for pairing in pairings:
        if pairing.training_cases:
            raise ValueError(f"{pairing.output} is of cases that the model was trained on; it takes a fold 0, 1, ...")
    names = [name for pairing in pairings for name in pairing.cases]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"{first_few(twice, 3)} of more than one fold, so that none has cases of its own to be measured on: name "
            "the folder of one fold"
        )
    if len(names) < 2:
        raise ValueError(f"{pairings[0].output} has one case; a second one is needed to measure on")
    if len(pairings) > 1:
        return [
            HeldOutCase(pairing.output.parent.name, pairing, name) for pairing in pairings for name in pairing.cases
        ]
    parts = min(_PARTS, len(names))
    return [HeldOutCase(f"part {i % parts + 1} of {parts}", pairings[0], name) for i, name in enumerate(names)]
