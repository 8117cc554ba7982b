"""Keeps trainings going until all are finished or have failed for good."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
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
class _Pause:
    """The time between two tries to start something.

    Attributes:
        seconds: how long it is.
        until: its end, of ``time.monotonic``.
        said: whether the user knows of it.
    """

    seconds: float = 0.0
    until: float = 0.0
    said: bool = False

    def begin(self) -> None:
        """Begin the next pause, which is twice as long as the last, within bounds."""
        self.seconds = min(max(_PAUSES[0], 2 * self.seconds), _PAUSES[1])
        self.until = time.monotonic() + self.seconds


@dataclass
class Scheduler:
    """Starts trainings, looks how they end, and starts again what may still be finished.

    Attributes:
        folder: of the sweep.
        launcher: starts them.
        display: shows the user what happens.
        previous: the names of the trainings that a training waits for, by its name (``Sweep.previous``).
        pause: seconds between two looks at the running processes.
        states: of every training by name: waiting, running, elsewhere (another sweep is at it), finished or failed.
    """

    folder: Path
    launcher: Launcher
    display: EventLines
    previous: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pause: float = 1.0
    states: dict[str, str] = field(default_factory=dict)
    _waiting: list[Training] = field(default_factory=list)
    _look_again: dict[str, float] = field(default_factory=dict)  # when, of those elsewhere; of ``time.monotonic``
    _active: dict[int, tuple[Training, Launched]] = field(default_factory=dict)  # by slot
    _epochs: dict[str, int] = field(default_factory=dict)  # done at the last look
    _failures: Counter[str] = field(default_factory=Counter)
    _taken_back: Counter[str] = field(default_factory=Counter)
    _refused: _Pause = field(default_factory=_Pause)

    def execute(self, trainings: tuple[Training, ...]) -> list[Training]:
        """Train what is not finished; returns the trainings that failed for good (``ATTEMPTS``).

        Ctrl-C and signals end what was started; another error only what cannot go on without this process.

        Raises:
            StartRefusedError: if nothing runs and nothing can be started as things are.
        """
        for training in trainings:
            training.write(self.folder)
            self.states[training.name] = "finished" if training.finished(self.folder) else "waiting"
            self._epochs[training.name] = training.epochs_done(self.folder)
        self._waiting = [training for training in trainings if self.states[training.name] == "waiting"]
        try:
            while self._waiting or self._active:
                self._look_elsewhere()
                self._start()
                self.display.update(self.states)
                time.sleep(self.pause)
                for slot, (training, launched) in list(self._active.items()):
                    outcome = launched.poll()
                    if outcome is not None:
                        del self._active[slot]
                        self._refused.until = 0.0  # there may be room now
                        self._note_end(training, outcome)
        except BaseException as error:
            wanted = not isinstance(error, Exception)
            _end([launched for _, launched in self._active.values() if wanted or not launched.independent])
            raise
        self.display.update(self.states)
        return [training for training in trainings if self.states[training.name] == "failed"]

    def _look_elsewhere(self) -> None:
        """Let trainings that no other process is at any more wait as all do. A job to ask that would be too much."""
        for training in self._waiting:
            if self.states[training.name] == "elsewhere" and self._look_again[training.name] <= time.monotonic():
                with lock(training.lock(self.folder)) as free:
                    if free:
                        self.states[training.name] = "waiting"
                    else:
                        self._look_again[training.name] = time.monotonic() + _BUSY_PAUSE

    def _start(self) -> None:
        slots = self.launcher.slots or len(self._waiting) + len(self._active)
        for slot in [slot for slot in range(slots) if slot not in self._active]:
            due = next(filter(self._is_due, self._waiting), None)
            if due is None or time.monotonic() < self._refused.until:
                return
            if due.finished(self.folder):  # by another process
                self._waiting.remove(due)
                self._note_finished(due)
                continue
            try:
                if (other := self.launcher.left_behind(due)) is not None:
                    self._leave_to(other, due)
                    continue
                self._active[slot] = due, self.launcher.start(due, slot)
            except StartRefusedError as refusal:
                if not (refusal.passing or self._active):
                    raise
                if not self._refused.said:
                    self.display.event(f"delayed  {refusal}; trying again until it is possible")
                self._refused.said = True
                self._refused.begin()
                return
            self._refused = _Pause()
            self._waiting.remove(due)
            self._look_again.pop(due.name, None)
            self.display.event(f"starts   {due.name}")
            self.states[due.name] = "running"

    def _is_due(self, training: Training) -> bool:
        first = self.previous.get(training.name, ())
        return self.states[training.name] == "waiting" and all(self.states[name] == "finished" for name in first)

    def _leave_to(self, other: str, training: Training) -> None:
        if training.name not in self._look_again:  # else it has been said
            self.display.event(f"elsewhere {training.name}: {other}; waiting for it")
        self.states[training.name] = "elsewhere"
        self._look_again[training.name] = time.monotonic() + _BUSY_PAUSE

    def _note_end(self, training: Training, outcome: Outcome) -> None:
        """Note how a training ended; it waits again if it is to be started again."""
        if training.finished(self.folder):
            self._note_finished(training)
            return
        if outcome.busy:
            self._waiting.append(training)
            self._leave_to("another process is at it", training)
            return
        before, self._epochs[training.name] = self._epochs[training.name], training.epochs_done(self.folder)
        counted, limit = (self._taken_back, TAKEN_BACK) if outcome.taken_back else (self._failures, ATTEMPTS)
        if self._epochs[training.name] > before:
            del self._failures[training.name], self._taken_back[training.name]
        counted[training.name] += 1
        again = counted[training.name] < limit
        word = "stopped " if outcome.taken_back else "failed  "
        self.display.event(
            f"{word} {training.name} ({outcome.how}), {'trying again' if again else 'giving up'}; see "
            f"{training.log(self.folder)}"
        )
        if again:
            self.states[training.name] = "waiting"
            self._waiting.append(training)
        else:
            self._give_up(training)

    def _give_up(self, training: Training) -> None:
        """Note that a training failed for good, and with it those that need its segmentations."""
        self.states[training.name] = "failed"
        for later in [each for each in self._waiting if training.name in self.previous.get(each.name, ())]:
            self._waiting.remove(later)
            self.display.event(f"failed   {later.name}, giving up: it needs the segmentations of {training.name}")
            self._give_up(later)

    def _note_finished(self, training: Training) -> None:
        self.states[training.name] = "finished"
        self.display.event(f"finished {training.name}")


def _end(running: list[Launched]) -> None:
    """End trainings: all are asked before the first is waited for, and each is ended, whatever interrupts another's."""
    with ExitStack() as stops:
        for launched in running:
            stops.callback(launched.stop)
        for launched in running:
            launched.ask_to_stop()
