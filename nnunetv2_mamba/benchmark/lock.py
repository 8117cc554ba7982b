"""One process per training: a lock that the operating system drops when its holder dies, however it dies."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


@contextmanager
def lock(file: Path) -> Iterator[bool]:
    """Hold ``file`` locked, if no other process does; yields whether it is held.

    A POSIX record lock: worker processes forked meanwhile do not inherit it, so one that outlives a killed training
    keeps nobody out, and network file systems know it too. On Windows, which does not fork, a lock of its C library.
    (``filelock`` takes ``flock``: forked workers share it before its version 4, and the two do not see each other.)

    Raises:
        OSError: where the file system does not lock.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        yield _taken(handle)


def _taken(handle: TextIO) -> bool:
    try:
        if fcntl is not None:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # the first byte, which need not exist
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # both are said of what another process holds
            return False
        remedy = "cannot be locked; name a folder with -o on a file system with locks (of NFS, mounted with them)"
        raise OSError(error.errno, f"{error.strerror}: {handle.name} {remedy}") from error
    return True
