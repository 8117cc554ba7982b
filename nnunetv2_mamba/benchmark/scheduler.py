"""Keeps runs going until all are finished or have failed for good."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from .job import BUSY
from .lock import lock
from .run import Run
from .runners import Runner, Started

ATTEMPTS = 2  # without an epoch more than before: a cluster's time limit may end a long training many times
_BUSY_PAUSE = 60.0  # seconds until a run that another process is at is looked at again


class Display(Protocol):
    def event(self, text: str) -> None: ...
    def update(self, states: dict[str, str]) -> None: ...


@dataclass
class _Waiting:
    run: Run
    not_before: float = 0.0


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

    def execute(self, runs: tuple[Run, ...]) -> list[Run]:
        """Run what is not finished; returns the runs that failed for good (``ATTEMPTS``)."""
        for run in runs:
            run.write(self.folder)
            self.states[run.name] = "finished" if run.finished(self.folder) else "waiting"
        waiting = [_Waiting(run) for run in runs if self.states[run.name] == "waiting"]
        failures: Counter[str] = Counter()
        active: dict[int, tuple[Run, Started]] = {}
        epochs = {run.name: run.epochs_done(self.folder) for run in runs}
        try:
            while waiting or active:
                self._start(waiting, active)
                self.display.update(self.states)
                time.sleep(self.pause)
                for slot, (run, started) in list(active.items()):
                    code = started.poll()
                    if code is not None:
                        del active[slot]
                        waiting += self._ended(run, code, failures, epochs)
        finally:
            for _, started in active.values():
                started.ask_to_stop()
            with ExitStack() as stops:  # each is ended, whatever interrupts the ending of another
                for _, started in active.values():
                    stops.callback(started.stop)
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
            if due is None:
                return
            waiting.remove(due)
            if due.run.finished(self.folder):  # by another process
                self._note_finished(due.run)
                continue
            self.display.event(f"starts   {due.run.name}")
            self.states[due.run.name] = "running"
            active[slot] = due.run, self.runner.start(due.run, slot)

    def _ended(self, run: Run, code: int, failures: Counter[str], epochs: dict[str, int]) -> list[_Waiting]:
        """Note how a run ended; returns it if it is to be started again."""
        if run.finished(self.folder):
            self._note_finished(run)
            return []
        if code == BUSY:
            self.display.event(f"elsewhere {run.name}: another process is at it; waiting for it")
            self.states[run.name] = "elsewhere"
            return [_Waiting(run, time.monotonic() + _BUSY_PAUSE)]
        before, epochs[run.name] = epochs[run.name], run.epochs_done(self.folder)
        failures[run.name] = 1 if epochs[run.name] > before else failures[run.name] + 1
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        again = failures[run.name] < ATTEMPTS
        self.display.event(
            f"failed   {run.name} ({how}), {'trying again' if again else 'giving up'}; see {run.log(self.folder)}"
        )
        self.states[run.name] = "waiting" if again else "failed"
        return [_Waiting(run)] if again else []

    def _note_finished(self, run: Run) -> None:
        self.states[run.name] = "finished"
        self.display.event(f"finished {run.name}")
