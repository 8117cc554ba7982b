"""Folders where Triton and torch.compile keep what they have compiled, also for a user who has no home to write to.

Containers and clusters start processes under user ids that no passwd file knows, with a home that is missing or
read-only. Triton's default is below the home; torch.compile's has the user's name in it, which older versions of torch
require to be known.
"""

import getpass
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from .cpu_build import BuildError, private_cache_folder

TRITON, INDUCTOR = "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"


def provide() -> None:
    """Name a writable folder in the environment, for this process and its children, where a default is not one.

    What the user has set stays. Where there is no writable folder at all nothing is set, and the compilers say so.
    """
    for variable, default in ((TRITON, _triton_default), (INDUCTOR, _inductor_default)):
        if not os.environ.get(variable) and not _is_writable(default):
            try:
                os.environ[variable] = str(private_cache_folder() / variable.partition("_")[0].lower())
            except (BuildError, OSError):
                return


def _triton_default() -> Path:
    return Path(os.environ.get("TRITON_HOME") or Path.home(), ".triton", "cache")


def _inductor_default() -> Path:
    return Path(tempfile.gettempdir(), f"torchinductor_{getpass.getuser()}")


def _is_writable(default: Callable[[], Path]) -> bool:
    try:
        folder = default()
        while not folder.exists():
            folder = folder.parent
        return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    except (OSError, KeyError, RuntimeError, ImportError):  # no name, no home, on Windows no pwd
        return False
