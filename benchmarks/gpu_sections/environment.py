"""What must be there before a minute is spent: Python, a C compiler with Python's headers, torch, triton, a GPU.

triton compiles a small C program for every kernel, and torch.compile another: without a compiler, or without Python.h,
nothing here would be measured.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

from . import places
from .context import Context

COMPILER_TIME = 30  # seconds for an empty program
GPU_MEMORY = "GPU memory, GiB"  # the check whose finding is a number


class MissingError(Exception):
    """What a check did not find; the message has the remedy."""


def run(context: Context, job: str) -> None:
    """Emit a row for every check; one that fails raises nothing, so that all that is missing is said at once."""
    for name, check in checks(context):
        try:
            context.emit({"check": name, "found": check(), "passed": True})
        except MissingError as missing:
            context.emit({"check": name, "found": str(missing), "passed": False})


def checks(context: Context) -> Iterator[tuple[str, Callable[[], str | float]]]:
    """Yield the checks by name; each says what it found, or raises ``MissingError``."""
    yield "Python", lambda: f"{sys.version.split()[0]}, {platform.machine()}, {os.cpu_count()} cores"
    yield "C compiler with Python.h", compiler
    yield "torch", lambda: imported("torch", "pip install torch")
    yield "numpy", lambda: imported("numpy", "pip install numpy")
    yield "the package", package
    if not context.needs_cuda("the Triton kernels and their compilation"):
        yield "triton", lambda: imported("triton", "pip install triton")
        yield "GPU", gpu
        yield GPU_MEMORY, gpu_memory


def imported(name: str, remedy: str) -> str:
    """Return the version of a module that can be imported."""
    try:
        return import_module(name).__version__
    except Exception as error:  # an ImportError, or what a broken library raises
        raise MissingError(f"{name} cannot be imported ({error}); {remedy}") from error


def package() -> str:
    """Import the networks, and with them what was packed."""
    try:
        import_module("networks")
        import_module("nnunetv2.training.loss.compound_losses")
    except Exception as error:
        raise MissingError(f"{error}; run the archive of pack_gpu_suite.py, or install nnunetv2") from error
    return str(places.ROOT)


def compiler() -> str:
    """Compile an empty extension module as triton does: by $CC, else gcc, else clang."""
    found = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    if not found:
        raise MissingError("no C compiler; apt install gcc, conda install gcc, or set CC to one")
    scheme = sysconfig.get_default_scheme()
    if scheme == "posix_local":  # Ubuntu's, for what is installed by hand: there are no headers of Python
        scheme = "posix_prefix"
    include = sysconfig.get_paths(scheme)["include"]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "empty.c"
        source.write_text("#include <Python.h>\n")
        command = [
            *found.split(),
            str(source),
            "-shared",
            "-fPIC",
            f"-I{include}",
            "-o",
            str(source.with_suffix(".so")),
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILER_TIME)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MissingError(
                f"{found} cannot be run ({error}); apt install gcc, or set CC to a C compiler"
            ) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it says nothing"]
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        raise MissingError(
            f"{found} cannot compile with Python.h from {include} ({lines[0]}); apt install {python}-dev"
        )
    return f"{found}, {include}"


def gpu() -> str:
    """Name the GPU, its capability and torch's CUDA."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError("torch sees no CUDA device; run on a machine with an NVIDIA GPU and a CUDA build of torch")
    properties = torch.cuda.get_device_properties(0)
    if (properties.major, properties.minor) < (7, 0):
        raise MissingError(
            f"{properties.name} has compute capability {properties.major}.{properties.minor}; 7.0 is needed"
        )
    return f"{properties.name}, sm_{properties.major}{properties.minor}, CUDA {torch.version.cuda}"


def gpu_memory() -> float:
    """Return the GPU's memory that is free, in GiB."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError("torch sees no CUDA device")
    return torch.cuda.mem_get_info()[0] / 2**30
