"""PyPI's `ziglang` as Triton's C compiler, on a system without one."""

import os
import shlex
import shutil
from pathlib import Path

from nnunetv2_mamba.files import written_whole

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
    """A file that stands for the command: Triton takes one without arguments. Other processes may be running it."""
    script = folder / "zig-cc"
    caches = "\n".join(
        f"export {name}=${{{name}:-{shlex.quote(str(folder / 'zig'))}}}"
        for name in ("ZIG_GLOBAL_CACHE_DIR", "ZIG_LOCAL_CACHE_DIR")
    )
    content = f'#!/bin/sh\n{caches}\nexec {shlex.join(command)} "$@"\n'
    if not script.is_file() or script.read_text() != content:
        with written_whole(script) as temporary:
            temporary.write_text(content)
            temporary.chmod(0o700)
    return script
