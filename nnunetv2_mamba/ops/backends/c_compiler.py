"""PyPI's `ziglang` as Triton's C compiler, on a system without one."""

import os
import shlex
import shutil
from pathlib import Path

from .cpu_build import BuildError, private_cache_folder, zig

VARIABLE = "CC"


def provide() -> None:
    """Name a command in the environment, for this process and its children, where Triton would find no compiler.

    What the user has set stays. Where `ziglang` is not installed either nothing is set, and Triton says what it lacks.
    """
    compiler = zig("cc", "-mcpu=baseline")  # its results are kept, perhaps for other machines too
    if (
        compiler is None
        or os.name != "posix"
        or os.environ.get(VARIABLE)
        or shutil.which("gcc")
        or shutil.which("clang")
    ):
        return
    try:
        os.environ[VARIABLE] = str(_script(compiler.command, private_cache_folder()))
    except (BuildError, OSError):
        return


def _script(command: tuple[str, ...], folder: Path) -> Path:
    """A file that stands for the command: Triton takes one without arguments."""
    script, temporary = folder / "zig-cc", folder / f".zig-cc-{os.getpid()}"
    caches = "\n".join(
        f"export {name}=${{{name}:-{shlex.quote(str(folder / 'zig'))}}}"
        for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    )
    temporary.write_text(f'#!/bin/sh\n{caches}\nexec {shlex.join(command)} "$@"\n')
    temporary.chmod(0o700)
    temporary.replace(script)
    return script
