"""What memory a process has used, and what there is left."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None


def process_peak() -> int | None:
    """The largest resident memory of this process so far, in bytes; None on Windows."""
    if resource is None:
        return None
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else resident * 1024


def free_memory() -> float:
    """The bytes that are free on Linux, those of the whole machine elsewhere; infinity where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else math.inf
