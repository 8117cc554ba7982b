"""What a sweep shows while it runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from .training import Training

_REFRESH = 2.0  # seconds


class EventLines(AbstractContextManager):
    """Shows a line per event, for log files."""

    def __init__(self, stream: TextIO = sys.stdout):
        self.stream = stream

    def __exit__(self, *_: object) -> None:
        """Do nothing: nothing is to be put back."""

    def event(self, text: str) -> None:
        print(_with_time(text), file=self.stream, flush=True)

    def update(self, states: dict[str, str]) -> None:
        """Do nothing: the events say all."""


class LiveTable(EventLines):
    """Shows, within its context, the counts of the states and a table of the trainings below the events' lines."""

    def __init__(self, trainings: tuple[Training, ...], folder: Path, console: Console | None = None):
        self.trainings, self.folder = trainings, folder
        self.live = Live(console=console or Console(), auto_refresh=False)
        self._next = 0.0

    def __enter__(self) -> LiveTable:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def event(self, text: str) -> None:
        self.live.console.print(_with_time(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._next = 0.0

    def update(self, states: dict[str, str]) -> None:
        if time.monotonic() < self._next and "running" in states.values():
            return
        self._next = time.monotonic() + _REFRESH
        counts = ", ".join(f"{count} {state}" for state, count in sorted(Counter(states.values()).items()))
        self.live.update(Group(counts, progress_table(self.trainings, states, self.folder)), refresh=True)


def progress_table(trainings: tuple[Training, ...], states: dict[str, str], folder: Path) -> Table:
    """Make a row per trainer and plans, those with something under way first, and a cell per fold and seed."""
    axes = ("dataset", "configuration", "plans")
    told = [axis for axis in axes if len({getattr(training, axis) for training in trainings}) > 1]
    several_seeds = len({training.seed for training in trainings}) > 1
    rows: dict[str, dict[str, str]] = {}
    busy = set()
    for training in trainings:
        title = " ".join([training.trainer, *(getattr(training, axis) for axis in told)])
        column = f"{training.fold}/{training.seed}" if several_seeds else str(training.fold)
        rows.setdefault(title, {})[column] = _cell(training, states[training.name], folder)
        if states[training.name] == "running":
            busy.add(title)
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    table = Table("fold/seed" if several_seeds else "fold", *columns, box=None, pad_edge=False, header_style="")
    for title in sorted(rows, key=lambda title: title not in busy):  # otherwise as in the file
        table.add_row(title, *(rows[title].get(column, "") for column in columns))
    return table


def _cell(training: Training, state: str, folder: Path) -> str:
    if state == "running":
        return f"{training.epochs_done(folder)}/{training.budget.epochs or '?'}"  # epochs
    return {"waiting": "-", "finished": "done", "elsewhere": "other", "failed": "FAILED"}[state]


def _with_time(text: str) -> str:
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"
