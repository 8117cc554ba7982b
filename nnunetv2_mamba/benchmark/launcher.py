"""What the scheduler knows of trainings under way, wherever they are computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .job import BUSY
from .training import Training


@dataclass(frozen=True)
class Outcome:
    """How the process, or the cluster's job, of a training ended.

    Attributes:
        how: for the user.
        busy: another process is at it.
        taken_back: the machine was taken from it, which is no failure of the training.
    """

    how: str
    busy: bool = False
    taken_back: bool = False


def outcome_of(code: int) -> Outcome:
    """Put an exit code, as ``Popen`` gives it, in words."""
    return Outcome(f"killed by signal {-code}" if code < 0 else f"exit code {code}", busy=code == BUSY)


class StartRefusedError(RuntimeError):
    """A training cannot be started now.

    Attributes:
        passing: it may be possible later, with nothing changed.
    """

    def __init__(self, reason: str, passing: bool):
        super().__init__(reason)
        self.passing = passing


class Launched(Protocol):
    """A training under way.

    Attributes:
        independent: whether it goes on where this process ends.
    """

    independent: bool

    def poll(self) -> Outcome | None:
        """Tell how it ended; None while it runs."""

    def ask_to_stop(self) -> None:
        """Ask it to end, and return at once: trainings write a checkpoint."""

    def stop(self) -> None:
        """End it with all that it started, after the time that a checkpoint needs."""


class Launcher(Protocol):
    """Starts trainings.

    Attributes:
        slots: how many may be under way; None for any number.
    """

    slots: int | None

    def left_behind(self, training: Training) -> str | None:
        """Say what an earlier command started for this training and is still to come; None if there is nothing.

        Raises:
            StartRefusedError: if this cannot be found out.
        """

    def start(self, training: Training, slot: int) -> Launched:
        """Start a training in one of the ``slots``.

        Raises:
            StartRefusedError: if it cannot be started now.
        """
