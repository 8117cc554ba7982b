"""C++ compilers: the system's own, or PyPI's `ziglang`, which compiles for every system."""

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


class BuildError(RuntimeError):
    """The library cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class Compiler:
    """A command that takes GCC's options.

    Attributes:
        command: the program and its first arguments.
        is_zig: its names of instruction sets have no hyphens, and it brings a C++ library, which it links statically.
    """

    command: tuple[str, ...]
    is_zig: bool = False

    def run(self, *arguments: object, scratch: Path) -> str:
        """What it prints; raises BuildError where it fails. Zig keeps what it needs of its own in `scratch`."""
        command = [*self.command, *map(str, arguments)]
        caches = ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR") if self.is_zig else ()
        environment = dict.fromkeys(caches, str(scratch)) | os.environ
        try:
            done = subprocess.run(  # compilers write UTF-8, whatever the locale is
                command, capture_output=True, encoding="utf-8", errors="replace", check=False, env=environment
            )
        except OSError as error:
            raise BuildError(f"{command[0]} cannot be run: {error}") from error
        if done.returncode:
            message = "\n".join(done.stderr.strip().splitlines()[:5])
            name = "ziglang" if self.is_zig else command[0]
            raise BuildError(f"{name} cannot compile the CPU kernels; use GCC 11, Clang 12 or newer:\n{message}")
        return done.stdout


def find_compiler() -> Compiler:
    """The C++ compiler: $CXX, else c++, g++, clang++ or ziglang. Raises BuildError if there is none."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if path := shutil.which(name):
            return Compiler((path,))
    if found := portable_zig():
        return found
    raise BuildError("no C++ compiler found; install g++ or clang++, or a compiler from PyPI: pip install ziglang")


def portable_zig() -> Compiler | None:
    """Zig for any machine of this kind: compiled on one of a cluster, the library may be loaded on another."""
    return zig("c++", "-mcpu=baseline")


def zig(*arguments: str) -> Compiler | None:
    """Zig with its first arguments (`c++`, `-target`, ...); None where `ziglang` is not installed."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    return Compiler((sys.executable, "-m", "ziglang", *arguments), is_zig=True)
