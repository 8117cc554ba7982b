"""The systems that have a wheel. Zig compiles for all of them, on any."""

import shutil

from .compilers import BuildError, Compiler, zig
from .targets import HERE, Target

# Zig's name of the system, by the platform of the wheel. The number is the oldest version of its C library or of macOS
# that the library runs on; Windows' is the universal C runtime, which every Python there has.
WHEELS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
    "macosx_11_0_x86_64": "x86_64-macos.11.0",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
    "win_arm64": "aarch64-windows-gnu",
}


def for_wheel(platform: str) -> tuple[Compiler, Target, Compiler | None]:
    """The compiler for one of WHEELS, what it compiles for, and a better one for the kernels where there is one.

    For glibc's Linux on x86-64 that is GCC: of zig's kernels for AVX2 the scan's backward takes 5 %, the convolution
    24 % more. Not for musl's: GCC may compile calls that glibc alone has.
    Raises BuildError for other platforms, and without ziglang.
    """
    if platform not in WHEELS:
        raise BuildError(f"NNUNETV2_MAMBA_WHEEL={platform} is not one of {', '.join(WHEELS)}")
    compiler = zig("c++", "-target", WHEELS[platform])
    if compiler is None:
        raise BuildError("a wheel for another system needs ziglang: pip install ziglang, and build without isolation")
    machine, system = WHEELS[platform].split("-")[:2]
    system = system.partition(".")[0]
    target = Target({"macos": "darwin", "windows": "win32"}.get(system, system), machine)
    with_gcc = platform.startswith("manylinux") and target == HERE == Target("linux", "x86_64")
    gcc = shutil.which("g++") if with_gcc else None
    return compiler, target, Compiler((gcc,)) if gcc else None
