"""Keeps runs going until all are finished or have failed for good."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .lock import lock
from .run import Run
from .started import Outcome, Runner, Started, StartRefusedError

ATTEMPTS = 2  # without an epoch more than before: a cluster's time limit may end a long training many times
TAKEN_BACK = 20  # the same, for machines that are taken from a run: something is wrong with them
_BUSY_PAUSE = 60.0  # seconds until a run that another process is at is looked at again
_PAUSES = (5.0, 300.0)  # seconds after a start that was refused: at first, and at most, doubled each time


class Display(Protocol):
    def event(self, text: str) -> None: ...
    def update(self, states: dict[str, str]) -> None: ...


@dataclass
class _Waiting:
    run: Run
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
    states: of every run by name: waiting, running, elsewhere (another sweep is at it), finished or failed.
    """

    folder: Path
    runner: Runner
    display: Display
    pause: float = 1.0
    states: dict[str, str] = field(default_factory=dict)
    _failures: Counter[str] = field(default_factory=Counter)
    _taken_back: Counter[str] = field(default_factory=Counter)
    _refused: _Pause = field(default_factory=_Pause)

    def execute(self, runs: tuple[Run, ...]) -> list[Run]:
        """Run what is not finished; returns the runs that failed for good (``ATTEMPTS``).

        Ctrl-C and signals end what was started; another error only what cannot go on without this process.

        Raises:
            StartRefusedError: if nothing runs and nothing can be started as things are.
        """
        for run in runs:
            run.write(self.folder)
            self.states[run.name] = "finished" if run.finished(self.folder) else "waiting"
        waiting = [_Waiting(run) for run in runs if self.states[run.name] == "waiting"]
        active: dict[int, tuple[Run, Started]] = {}
        epochs = {run.name: run.epochs_done(self.folder) for run in runs}
        try:
            while waiting or active:
                self._start(waiting, active)
                self.display.update(self.states)
                time.sleep(self.pause)
                for slot, (run, started) in list(active.items()):
                    outcome = started.poll()
                    if outcome is not None:
                        del active[slot]
                        self._refused.until = 0.0  # there may be room now
                        waiting += self._ended(run, outcome, epochs)
        except BaseException as error:
            wanted = not isinstance(error, Exception)
            _end([started for _, started in active.values() if wanted or not started.independent])
            raise
        self.display.update(self.states)
        return [run for run in runs if self.states[run.name] == "failed"]

    def _look_elsewhere(self, waiting: list[_Waiting]) -> None:
        """Runs that no other process is at any more wait as all do; a process, or a cluster's job, only to ask that
        would be too much."""
        for entry in waiting:
            if self.states[entry.run.name] == "elsewhere" and entry.not_before <= time.monotonic():
                with lock(entry.run.lock(self.folder)) as free:
                    if free:
                        self.states[entry.run.name] = "waiting"
                    else:
                        entry.not_before = time.monotonic() + _BUSY_PAUSE

    def _start(self, waiting: list[_Waiting], active: dict[int, tuple[Run, Started]]) -> None:
        self._look_elsewhere(waiting)
        slots = self.runner.slots or len(waiting) + len(active)
        for slot in [slot for slot in range(slots) if slot not in active]:
            due = next((entry for entry in waiting if self.states[entry.run.name] == "waiting"), None)
            if due is None or time.monotonic() < self._refused.until:
                return
            if due.run.finished(self.folder):  # by another process
                waiting.remove(due)
                self._note_finished(due.run)
                continue
            try:
                if (other := self.runner.left_behind(due.run)) is not None:
                    self._leave_to(other, due)
                    continue
                active[slot] = due.run, self.runner.start(due.run, slot)
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
            self.display.event(f"starts   {due.run.name}")
            self.states[due.run.name] = "running"

    def _leave_to(self, other: str, entry: _Waiting) -> None:
        if not entry.not_before:  # else it has been said
            self.display.event(f"elsewhere {entry.run.name}: {other}; waiting for it")
        self.states[entry.run.name] = "elsewhere"
        entry.not_before = time.monotonic() + _BUSY_PAUSE

    def _ended(self, run: Run, outcome: Outcome, epochs: dict[str, int]) -> list[_Waiting]:
        """Note how a run ended; returns it if it is to be started again."""
        if run.finished(self.folder):
            self._note_finished(run)
            return []
        if outcome.busy:
            entry = _Waiting(run)
            self._leave_to("another process is at it", entry)
            return [entry]
        before, epochs[run.name] = epochs[run.name], run.epochs_done(self.folder)
        counted, limit = (self._taken_back, TAKEN_BACK) if outcome.taken_back else (self._failures, ATTEMPTS)
        if epochs[run.name] > before:
            del self._failures[run.name], self._taken_back[run.name]
        counted[run.name] += 1
        again = counted[run.name] < limit
        word = "stopped " if outcome.taken_back else "failed  "
        self.display.event(
            f"{word} {run.name} ({outcome.how}), {'trying again' if again else 'giving up'}; see {run.log(self.folder)}"
        )
        self.states[run.name] = "waiting" if again else "failed"
        return [_Waiting(run)] if again else []

    def _note_finished(self, run: Run) -> None:
        self.states[run.name] = "finished"
        self.display.event(f"finished {run.name}")


def _end(running: list[Started]) -> None:
    """All are asked before the first is waited for, and each is ended, whatever interrupts the ending of another."""
    with ExitStack() as stops:
        for started in running:
            stops.callback(started.stop)
        for started in running:
            started.ask_to_stop()
