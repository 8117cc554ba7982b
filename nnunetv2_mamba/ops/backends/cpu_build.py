"""Compiles the CPU kernels (`ops/csrc`) into one shared library, for the wheel (`hatch_build.py`) or on first use.

Imports the standard library only: the wheel's build loads this file by its path.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "csrc"
LIBRARY_NAME = "selective_scan" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")

# The kernels accumulate in registers and never test for rounding: products and sums may fuse, nothing else may change.
_FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fvisibility=hidden")
_KERNELS = ("scan.cpp", "ssd.cpp", "conv.cpp")


class BuildError(RuntimeError):
    """The library cannot be built here; the message says why and what to do."""


def build(library: Path, compiler: str) -> None:
    """Compile the sources into the file `library`, which appears complete or not at all. Raises BuildError."""
    position_independent = () if sys.platform == "win32" else ("-fPIC",)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as folder:
        flags = (*_FLAGS, *position_independent)
        objects = {"library.o": [*flags, SOURCES / "library.cpp"]}
        for name, march in _instruction_sets().items():
            for source in _KERNELS:
                objects[f"{name}_{source}.o"] = [*flags, *march, f"-DNM_ISA={name}", SOURCES / source]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = [
                pool.submit(_run, [compiler, *arguments, "-c", "-o", Path(folder) / name])
                for name, arguments in objects.items()
            ]
            for job in compiled:
                job.result()
        linked = Path(folder) / LIBRARY_NAME
        _run([compiler, "-shared", "-pthread", "-o", linked, *(Path(folder) / name for name in objects)])
        linked.replace(library)


def cached_library() -> Path:
    """The library in the user's cache, compiled if it is not there yet. Raises BuildError.

    Its name is a hash of the sources, the flags and the compiler, so that a change of any compiles anew. Processes that
    compile at the same time each put the same file in place.
    """
    compiler = find_compiler()
    library = private_cache_folder() / f"{_hash(compiler)}-{LIBRARY_NAME}"
    if not library.exists():
        try:
            build(library, compiler)
        except OSError as error:
            raise BuildError(f"the CPU kernels could not be written to {library}: {error}") from error
    return library


def private_cache_folder() -> Path:
    """A folder that this user can write to and nobody else can: code is loaded from it. Raises BuildError.

    It is in the user's cache or, for a user without a home to write to, among the temporary files.
    """
    tried = []
    for place in (_in_user_cache, _among_temporary_files):
        try:
            folder = place()
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if _is_private(folder) and os.access(folder, os.W_OK):
                return folder
            tried.append(f"{folder} (not writable, or writable by others)")
        except OSError as error:
            tried.append(f"{error.filename or 'a temporary folder'} ({error.strerror or error})")
        except RuntimeError:  # of a user id without a home
            tried.append("the home, which is not known")
    raise BuildError(f"no folder to keep compiled kernels in; tried {', '.join(tried)}; set XDG_CACHE_HOME")


def find_compiler() -> str:
    """The C++ compiler: $CXX, else c++, g++ or clang++. Raises BuildError if there is none."""
    for name in filter(None, (os.environ.get("CXX"), "c++", "g++", "clang++")):
        if path := shutil.which(name):
            return path
    raise BuildError("no C++ compiler found; install g++ or clang++, or install a prebuilt wheel")


def _instruction_sets() -> dict[str, tuple[str, ...]]:
    """Namespace (as in library.cpp) and compiler flags of every instruction set of this machine's architecture."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return {f"x86_64_v{level}": (f"-march=x86-64-v{level}",) for level in (2, 3, 4)}
    return {"baseline": ()}


def _hash(compiler: str) -> str:
    digest = hashlib.sha256(repr((_FLAGS, _instruction_sets(), compiler)).encode())
    digest.update(_run([compiler, "--version"]).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


def _in_user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home(), "nnunetv2_mamba")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "nnunetv2_mamba")


def _among_temporary_files() -> Path:
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir(), f"nnunetv2_mamba-{user}")


def _is_private(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


def _run(command: list) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} cannot be run: {error}") from error
    if done.returncode:
        message = "\n".join(done.stderr.strip().splitlines()[:5])
        raise BuildError(f"{command[0]} cannot compile the CPU kernels; use GCC 11, Clang 12 or newer:\n{message}")
    return done.stdout
