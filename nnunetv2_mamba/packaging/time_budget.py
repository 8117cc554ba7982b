"""Which inference choices fit into the time that a case may take, from the measured time of a pass.

The unit of cost is a pass: one forward of the first model's network on one of its tiles; what else takes time is
counted as so many passes. Of the choices asked for and ever cheaper ones
(``ladder``), the first is taken that fits. While it runs, a guard lets a tile begin only if after it there is still
time for the cheapest choices; if not, these take over. If not even they end in time, the tiles that are left stay
background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..text import joined_by_and

MARGIN = 1.25  # on what many passes take together


@dataclass(frozen=True)
class Effort:
    """What is run: the first so many models and of each the first so many folds, with or without mirroring, tiles so
    many patches apart."""

    folds: int
    mirroring: bool
    step_size: float
    models: int = 1

    def __str__(self) -> str:
        models = f"{self.models} models, " if self.models > 1 else ""
        mirroring = "mirroring" if self.mirroring else "no mirroring"
        return f"{models}{self.folds} fold(s), {mirroring}, step size {self.step_size:g}"

    def given_up(self, asked: Effort) -> str:
        """What this lacks of what was asked for; empty where nothing."""
        lost = []
        if self.models < asked.models:
            lost.append(f"{asked.models - self.models} of {asked.models} models")
        if asked.mirroring and not self.mirroring:
            lost.append("mirroring")
        if self.folds < asked.folds:
            lost.append(f"{asked.folds - self.folds} of {asked.folds} folds")
        if self.step_size > asked.step_size:
            lost.append("overlap of tiles")
        return joined_by_and(lost)


def ladder(asked: Effort) -> list[Effort]:
    """``asked`` and cheaper efforts: one model less and less, then without mirroring, then one fold, then step sizes of
    0.75 and 1."""
    efforts = [asked]
    fewer = [{"models": models} for models in range(asked.models - 1, 0, -1)]
    for cheaper in (*fewer, {"mirroring": False}, {"folds": 1}, {"step_size": 0.75}, {"step_size": 1.0}):
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

    def record(self, seconds: float, passes: float) -> None:
        """Take note of how long passes took."""
        self._seconds += seconds
        self._passes += passes
        self._slowest = max(self._slowest, seconds / passes)

    def fits(self, passes: float) -> bool:
        """Whether there is time for so many passes."""
        return passes * self._mean() * MARGIN <= self._deadline - self._clock()

    def choose(self, efforts: Sequence[Effort], passes: Callable[[Effort], float]) -> Effort:
        """The first effort that leaves time for the last one, in case it is interrupted; else the last one."""
        fallback = passes(efforts[-1])
        return next((effort for effort in efforts[:-1] if self.fits(passes(effort) + fallback)), efforts[-1])

    def open(self, reserved: float) -> None:
        """Start an effort after which there must be time for so many passes more."""
        self._reserved, self.closed = reserved, False

    def run(self, tile: Callable[[], object], passes: float) -> object | None:
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
