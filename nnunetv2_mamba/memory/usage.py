"""What memory a process has used, and what there is left."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

GIB = 2**30


def process_peak() -> int | None:
    """The largest resident memory of this process so far, in bytes; None on Windows."""
    if resource is None:
        return None
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident if sys.platform == "darwin" else resident * 1024


def free_memory() -> float:
    """The bytes that are free on Linux, in containers and jobs within their limit; elsewhere those of the machine, and
    infinity where nobody says."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        known = "SC_PHYS_PAGES" in names and "SC_PAGE_SIZE" in names
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else math.inf
    return min(free, *map(_free_in_group, _control_groups()), math.inf)


def _control_groups() -> Iterator[Path]:
    """The folders of Linux's limits on this process: its own group's and those above, of either version.

    In a container the own one may be mounted where the topmost should be.
    """
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            top = Path("/sys/fs/cgroup", controllers)
            group = top / path.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(top))


def _free_in_group(folder: Path) -> float:
    """The bytes up to a group's limit, with what its cache of files could give back; infinity without a limit."""
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        with suppress(OSError, ValueError):  # not of this version, or "max": no limit
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            cached = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
            return int((folder / limit).read_text()) - int((folder / used).read_text()) + cached
    return math.inf
