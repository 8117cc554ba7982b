"""A model's validation in parts, each of which is held out once while something is fitted on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

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
    """Give all cases: a part is a fold or, of one fold, every fifth case."""
    several = len(pairings) > 1
    return [
        HeldOutCase(pairing.output.parent.name if several else f"part {number % _PARTS + 1}", pairing, name)
        for pairing in pairings
        for number, name in enumerate(pairing.cases)
    ]
