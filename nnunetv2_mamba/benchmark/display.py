"""What a sweep shows while it runs: a live table on a terminal, a line per event elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TextIO

from .run import Run

_REFRESH = 2.0  # seconds
_CELL = 7  # characters: 100/250


class EventLines:
    """A line per event, for log files."""

    def __init__(self, stream: TextIO = sys.stdout):
        self.stream = stream

    def event(self, text: str) -> None:
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=self.stream, flush=True)

    def update(self, states: dict[str, str]) -> None:
        """Events say all."""


class LiveTable(EventLines):
    """A row per trainer and plans, a cell per fold and seed, printed over itself."""

    def __init__(self, runs: tuple[Run, ...], folder: Path, stream: TextIO = sys.stdout):
        super().__init__(stream)
        self.runs, self.folder = runs, folder
        self._height, self._next = 0, 0.0

    def event(self, text: str) -> None:
        self._erase()
        super().event(text)
        self._next = 0.0

    def update(self, states: dict[str, str]) -> None:
        if time.monotonic() < self._next and "running" in states.values():
            return
        self._next = time.monotonic() + _REFRESH
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in progress_table(self.runs, states, self.folder)]
        if len(lines) > size.lines - 1:  # the first lines are of what began first, the last one counts
            lines = [*lines[: size.lines - 3], "...", lines[-1]]
        self._erase()
        print("\n".join(lines), file=self.stream, flush=True)
        self._height = len(lines)

    def _erase(self) -> None:
        if self._height:
            self.stream.write(f"\x1b[{self._height}A\x1b[J")
            self._height = 0


def progress_table(runs: tuple[Run, ...], states: dict[str, str], folder: Path) -> list[str]:
    """Lines of text: a head, rows with something under way first, a count of the states last."""
    told = [name for name in ("dataset", "configuration", "plans") if len({getattr(run, name) for run in runs}) > 1]
    several_seeds = len({run.seed for run in runs}) > 1
    rows: dict[str, dict[str, str]] = {}
    busy = set()
    for run in runs:
        title = " ".join([run.trainer, *(getattr(run, name) for name in told)])
        column = f"{run.fold}/{run.seed}" if several_seeds else str(run.fold)
        rows.setdefault(title, {})[column] = _cell(run, states[run.name], folder)
        if states[run.name] == "running":
            busy.add(title)
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    head = "fold/seed" if several_seeds else "fold"
    width = max(map(len, [head, *rows]))
    ordered = sorted(rows, key=lambda title: title not in busy)  # otherwise as in the file
    counts = Counter(states.values())
    return [
        "  ".join([head.ljust(width), *(f"{column:<{_CELL}}" for column in columns)]).rstrip(),
        *(
            "  ".join([title.ljust(width), *(f"{rows[title].get(column, ''):<{_CELL}}" for column in columns)]).rstrip()
            for title in ordered
        ),
        ", ".join(f"{count} {state}" for state, count in sorted(counts.items())),
    ]


def _cell(run: Run, state: str, folder: Path) -> str:
    if state == "running":
        return f"{run.epochs_done(folder)}/{run.budget.epochs or '?'}"  # epochs
    return {"waiting": "-", "finished": "done", "elsewhere": "other", "failed": "FAILED"}[state]
