"""What the compilers behind Triton and torch.compile lack on a machine, and what to install.

Both compile small C files against Python's headers when a kernel first runs.
"""

import re
import sys
import sysconfig
from pathlib import Path

import torch

from nnunetv2_mamba.text import short_reason

from ..device_errors import CheckPostponedError, DeviceLostError, ends_the_device, is_passing

_NO_COMPILER = r"Failed to find C compiler|C\+\+ compiler|CppCompileError|InvalidCxxCompiler|\bgcc\b|\bg\+\+"
_COMPILER = (
    "install a C and a C++ compiler: apt install gcc g++ (Debian, Ubuntu), dnf install gcc gcc-c++, conda install "
    "cxx-compiler; or name yours in CC and CXX"
)


def explained(error: Exception, device: torch.device) -> str:
    """An error of a compiler or of `device`, and what to do about it.

    Raises:
        CheckPostponedError: It may not come again.
        DeviceLostError: Nothing works on the device after it.
    """
    if is_passing(error):
        raise CheckPostponedError(device, error) from error
    if ends_the_device(error):
        raise DeviceLostError(device, error) from error
    return f"{short_reason(error)}; {remedy(str(error)) or 'please report this'}"


def remedy(message: str) -> str | None:
    """What to install, by a compiler's message; None if it is about something else."""
    failed = "returned non-zero exit status" in message  # what the compiler printed is not in such a message
    if "Python.h" in message or (failed and not _has_headers()):
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        return (
            f"install Python's headers: apt install python3-dev or python{python}-dev (Debian, Ubuntu), "
            "dnf install python3-devel"
        )
    if re.search(_NO_COMPILER, message) and not failed:
        return _COMPILER
    if "Permission denied" in message or "Read-only file system" in message:
        return "set TRITON_CACHE_DIR and TORCHINDUCTOR_CACHE_DIR to folders that you can write to"
    return None


def _has_headers() -> bool:
    return Path(sysconfig.get_config_var("INCLUDEPY"), "Python.h").is_file()
