"""Whether this process is a fork. OpenMP hangs there: it waits for threads that only the process before had."""

import os
from pathlib import Path

_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC, Linux


def _is_fork_now() -> bool:
    try:
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
        return bool(int(flags) & _FORKED_WITHOUT_EXEC)
    except (OSError, ValueError, IndexError):
        return True  # not known: threads of its own are always right


_IMPORTED_BY, _FORKED_BEFORE = os.getpid(), _is_fork_now()


def is_fork() -> bool:
    """True if this process was forked off another one, before or after the import, and is still the same program."""
    return _FORKED_BEFORE or os.getpid() != _IMPORTED_BY
