"""What the C library does with memory that a process frees."""

from __future__ import annotations

import ctypes
import os
import platform

# of glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let this process reuse the memory it frees, where the C library is glibc.

    As it comes, glibc returns large blocks to the system at once, and the next step of a training on a CPU gets them
    back page by page, each with a fault: a third of its time. Kept, they need up to a quarter more memory, because not
    every free block fits the next request. Data loading processes that are forked later do the same.

    Returns:
        False if nothing was changed: another C library, or the user has set its variables (``MALLOC_...``,
        ``GLIBC_TUNABLES``).
    """
    if platform.libc_ver()[0] != "glibc" or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
