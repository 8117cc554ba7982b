"""Which inference choices fit into the time that a case may take, from the measured time of a pass.

The unit of cost is a pass: one forward of the network on one tile. Of the choices asked for and ever cheaper ones
(``ladder``), the first is taken that fits. While it runs, a guard lets a tile begin only if after it there is still
time for the cheapest choices; if not, these take over. If not even they end in time, the tiles that are left stay
background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

MARGIN = 1.25  # on what many passes take together


@dataclass(frozen=True)
class Effort:
    """What is run: the first so many folds, with or without mirroring, tiles so many patches apart."""

    folds: int
    mirroring: bool
    step_size: float

    def __str__(self) -> str:
        mirroring = "mirroring" if self.mirroring else "no mirroring"
        return f"{self.folds} fold(s), {mirroring}, step size {self.step_size:g}"


def ladder(asked: Effort) -> list[Effort]:
    """``asked`` and cheaper efforts: without mirroring, then one fold, then step sizes of 0.75 and 1."""
    efforts = [asked]
    for cheaper in ({"mirroring": False}, {"folds": 1}, {"step_size": 0.75}, {"step_size": 1.0}):
        effort = replace(efforts[-1], **cheaper)
        if effort != efforts[-1] and effort.step_size >= asked.step_size:
            efforts.append(effort)
    return efforts


class Guard:
    """Keeps the time of one case.

    Args:
        deadline: on ``clock``, when the last pass must have ended.
        clock: seconds, as ``time.perf_counter``.
    """

    def __init__(self, deadline: float, clock: Callable[[], float]):
        self._deadline, self._clock = deadline, clock
        self._seconds, self._passes, self._slowest = 0.0, 0, 0.0
        self._reserved = 0
        self.closed = False

    def record(self, seconds: float, passes: int) -> None:
        """Take note of how long passes took."""
        self._seconds += seconds
        self._passes += passes
        self._slowest = max(self._slowest, seconds / passes)

    def choose(self, efforts: Sequence[Effort], passes: Callable[[Effort], int]) -> Effort:
        """The first effort that leaves time for the last one, in case it is interrupted; else the last one."""
        left = self._deadline - self._clock()
        fallback = passes(efforts[-1])
        for effort in efforts[:-1]:
            if (passes(effort) + fallback) * self._mean() * MARGIN <= left:
                return effort
        return efforts[-1]

    def open(self, reserved: int) -> None:
        """Start an effort after which there must be time for so many passes more."""
        self._reserved, self.closed = reserved, False

    def run(self, tile: Callable[[], object], passes: int) -> object | None:
        """Run a tile of so many passes if there is time for it; None, and the guard is closed, if there is not."""
        start = self._clock()
        end = start + passes * self._slowest + self._reserved * self._mean() * MARGIN
        self.closed = self.closed or end > self._deadline
        if self.closed:
            return None
        result = tile()
        self.record(self._clock() - start, passes)
        return result

    def _mean(self) -> float:
        return self._seconds / self._passes
