"""One process per run: a lock that the operating system drops when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(file: Path) -> Iterator[bool]:
    """Hold ``file`` locked, if no other process does; yields whether it is held.

    A POSIX record lock: worker processes forked meanwhile do not inherit it, so one that outlives a killed training
    keeps nobody out, and network file systems know it too.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
