"""Compiles the CPU kernels (`ops/csrc`) into one shared library, for a wheel (`hatch_build.py`) or on first use.

Imports the standard library only: the wheel's build loads this folder by its path.
"""

from .cache import cached_library, private_cache_folder
from .compilers import BuildError, Compiler, find_compiler, zig
from .library import build
from .targets import HERE, Target
from .wheels import WHEELS, for_wheel

LIBRARY_NAME = HERE.library_name

__all__ = [
    "HERE",
    "LIBRARY_NAME",
    "WHEELS",
    "BuildError",
    "Compiler",
    "Target",
    "build",
    "cached_library",
    "find_compiler",
    "for_wheel",
    "private_cache_folder",
    "zig",
]
