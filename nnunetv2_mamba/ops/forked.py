"""Whether this process is a fork of the one that imported the package, and so without the threads of its libraries."""

import os

_IMPORTED_BY = os.getpid()


def since_import() -> bool:
    """True in a process forked after the import: OpenMP hangs there if it had started threads before."""
    return os.getpid() != _IMPORTED_BY
