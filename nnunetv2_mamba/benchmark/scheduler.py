"""Keeps trainings going until all are finished or have failed for good."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from .display import EventLines
from .launcher import Launched, Launcher, Outcome, StartRefusedError
from .lock import lock
from .training import Training

ATTEMPTS = 2  # without an epoch more than before: a cluster's time limit may end a long training many times
TAKEN_BACK = 20  # the same, for machines that are taken from a training: something is wrong with them
_BUSY_PAUSE = 60.0  # seconds until a training that another process is at is looked at again
_PAUSES = (5.0, 300.0)  # seconds after a start that was refused: at first, and at most, doubled each time


@dataclass
class _Waiting:
    training: Training
    not_before: float = 0.0


@dataclass
class _Pause:
    """Between two tries to start something. ``said``: the user knows of it."""

    seconds: float = 0.0
    until: float = 0.0
    said: bool = False

    def begin(self) -> None:
        self.seconds = min(max(_PAUSES[0], 2 * self.seconds), _PAUSES[1])
        self.until = time.monotonic() + self.seconds


@dataclass
class Scheduler:
    """Attributes:
    folder: of the sweep.
    pause: seconds between two looks at the running processes.
    states: of every training by name: waiting, running, elsewhere (another sweep is at it), finished or failed.
    """

    folder: Path
    launcher: Launcher
    display: EventLines
    pause: float = 1.0
    states: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _taken_back: Counter[str] = field(default_factory=Counter)
    _refused: _Pause = field(default_factory=_Pause)

    def execute(self, trainings: tuple[Training, ...]) -> list[Training]:
        """Run what is not finished; returns the trainings that failed for good (``ATTEMPTS``).

        Ctrl-C and signals end what was started; another error only what cannot go on without this process.

        Raises:
            StartRefusedError: if nothing runs and nothing can be started as things are.
        """
        for training in trainings:
            training.write(self.folder)
            self.states[training.name] = "finished" if training.finished(self.folder) else "waiting"
        waiting = [_Waiting(training) for training in trainings if self.states[training.name] == "waiting"]
        active: dict[int, tuple[Training, Launched]] = {}
        epochs = {training.name: training.epochs_done(self.folder) for training in trainings}
        try:
            while waiting or active:
                self._start(waiting, active)
                self.display.update(self.states)
                time.sleep(self.pause)
                for slot, (training, launched) in list(active.items()):
                    outcome = launched.poll()
                    if outcome is not None:
                        del active[slot]
                        self._refused.until = 0.0  # there may be room now
                        waiting += self._ended(training, outcome, epochs)
        except BaseException as error:
            wanted = not isinstance(error, Exception)
            _end([launched for _, launched in active.values() if wanted or not launched.independent])
            raise
        self.display.update(self.states)
        return [training for training in trainings if self.states[training.name] == "failed"]

    def _look_elsewhere(self, waiting: list[_Waiting]) -> None:
        """Trainings that no other process is at any more wait as all do. A job only to ask that would be too much."""
        for entry in waiting:
            if self.states[entry.training.name] == "elsewhere" and entry.not_before <= time.monotonic():
                with lock(entry.training.lock(self.folder)) as free:
                    if free:
                        self.states[entry.training.name] = "waiting"
                    else:
                        entry.not_before = time.monotonic() + _BUSY_PAUSE

    def _start(self, waiting: list[_Waiting], active: dict[int, tuple[Training, Launched]]) -> None:
        self._look_elsewhere(waiting)
        slots = self.launcher.slots or len(waiting) + len(active)
        for slot in [slot for slot in range(slots) if slot not in active]:
            due = next((entry for entry in waiting if self.states[entry.training.name] == "waiting"), None)
            if due is None or time.monotonic() < self._refused.until:
                return
            if due.training.finished(self.folder):  # by another process
                waiting.remove(due)
                self._note_finished(due.training)
                continue
            try:
                if (other := self.launcher.left_behind(due.training)) is not None:
                    self._leave_to(other, due)
                    continue
                active[slot] = due.training, self.launcher.start(due.training, slot)
            except StartRefusedError as refusal:
                if not (refusal.passing or active):
                    raise
                if not self._refused.said:
                    self.display.event(f"delayed  {refusal}; trying again until it is possible")
                self._refused.said = True
                self._refused.begin()
                return
            self._refused = _Pause()
            waiting.remove(due)
            self.display.event(f"starts   {due.training.name}")
            self.states[due.training.name] = "running"

    def _leave_to(self, other: str, entry: _Waiting) -> None:
        if not entry.not_before:  # else it has been said
            self.display.event(f"elsewhere {entry.training.name}: {other}; waiting for it")
        self.states[entry.training.name] = "elsewhere"
        entry.not_before = time.monotonic() + _BUSY_PAUSE

    def _ended(self, training: Training, outcome: Outcome, epochs: dict[str, int]) -> list[_Waiting]:
        """Note how a training ended; returns it if it is to be started again."""
        if training.finished(self.folder):
            self._note_finished(training)
            return []
        if outcome.busy:
            entry = _Waiting(training)
            self._leave_to("another process is at it", entry)
            return [entry]
        before, epochs[training.name] = epochs[training.name], training.epochs_done(self.folder)
        counted, limit = (self._taken_back, TAKEN_BACK) if outcome.taken_back else (self._failures, ATTEMPTS)
        if epochs[training.name] > before:
            del self._failures[training.name], self._taken_back[training.name]
        counted[training.name] += 1
        again = counted[training.name] < limit
        word = "stopped " if outcome.taken_back else "failed  "
        self.display.event(
            f"{word} {training.name} ({outcome.how}), {'trying again' if again else 'giving up'}; see "
            f"{training.log(self.folder)}"
        )
        self.states[training.name] = "waiting" if again else "failed"
        return [_Waiting(training)] if again else []

    def _note_finished(self, training: Training) -> None:
        self.states[training.name] = "finished"
        self.display.event(f"finished {training.name}")


def _end(running: list[Launched]) -> None:
    """All are asked before the first is waited for, and each is ended, whatever interrupts the ending of another."""
    with ExitStack() as stops:
        for launched in running:
            stops.callback(launched.stop)
        for launched in running:
            launched.ask_to_stop()
