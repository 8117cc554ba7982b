"""What memory a process has used."""

from __future__ import annotations

import sys

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
