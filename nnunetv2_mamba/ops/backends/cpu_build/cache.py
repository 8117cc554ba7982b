"""The library in the user's cache, where it is compiled on first use."""

import hashlib
import os
import sys
import tempfile
from pathlib import Path

from .compilers import BuildError, Compiler, find_compiler, portable_zig
from .library import FLAGS, SOURCES, build
from .targets import HERE


def cached_library() -> Path:
    """The library in the user's cache, compiled if it is not there yet. Raises BuildError.

    Where the system's compiler cannot, an old one say, ziglang does if it is installed.

    The name is a hash of the sources, the flags and the compiler, so that a change of any compiles anew. Of processes
    that compile at the same time the first puts its file in place, and it stays: a machine that has loaded it from a
    network file system could lose it under its hands.
    """
    compiler = find_compiler()
    try:
        return _compiled_by(compiler)
    except BuildError:
        other = portable_zig()
        if compiler.is_zig or other is None:
            raise
        return _compiled_by(other)


def _compiled_by(compiler: Compiler) -> Path:
    folder = private_cache_folder()
    library = folder / f"{_hash(compiler, folder)}-{HERE.library_name}"
    if not library.exists():
        try:
            build(library, compiler, keep=True)
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


def _hash(compiler: Compiler, scratch: Path) -> str:
    digest = hashlib.sha256(repr((FLAGS, HERE, compiler)).encode())
    digest.update(compiler.run("--version", scratch=scratch).encode())
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
