"""Whether this process is a fork. OpenMP hangs there: it waits for threads that only the process before had."""

import os
from pathlib import Path

_IMPORTED_BY = os.getpid()
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC, Linux


def is_fork() -> bool:
    """True if this process was forked off another one, before or after the import, and is still the same program."""
    return _FORKED_BEFORE or os.getpid() != _IMPORTED_BY


def _is_fork_now() -> bool:
    try:
        flags = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[6]
        return bool(int(flags) & _FORKED_WITHOUT_EXEC)
    except (OSError, ValueError, IndexError):  # not Linux, where no OpenMP is used either
        return False


_FORKED_BEFORE = _is_fork_now()
