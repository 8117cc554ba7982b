"""The build of the library: the host side once, the kernels once for each instruction set."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .compilers import Compiler
from .targets import HERE, Target

SOURCES = Path(__file__).resolve().parents[2] / "csrc"

# The kernels accumulate in registers and never test for rounding: products and sums may fuse, nothing else may change.
FLAGS = ("-std=c++17", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti")
_KERNELS = ("scan.cpp", "ssd.cpp", "conv.cpp")


def build(
    library: Path,
    compiler: Compiler,
    target: Target = HERE,
    for_kernels: Compiler | None = None,
    keep: bool = False,
) -> None:
    """Compile the sources into the file `library`, which appears complete or not at all. Raises BuildError.

    A compiler for another target than this machine is zig, told so by its first arguments. Another can be named for the
    kernels, which call nothing but memcpy and the like. With `keep` one that has appeared meanwhile stays.
    """
    for_kernels = for_kernels or compiler
    flags = FLAGS if target.system == "win32" else (*FLAGS, "-fPIC")
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as name_of_folder:
        folder = Path(name_of_folder)
        objects = {"library.o": (compiler, [*flags, SOURCES / "library.cpp"])}
        for name in target.instruction_sets:
            march = () if name == "baseline" else (f"-march={name if for_kernels.is_zig else name.replace('_', '-')}",)
            for source in _KERNELS:
                arguments = [*flags, *march, f"-DNM_ISA={name}", SOURCES / source]
                objects[f"{name}_{source}.o"] = (for_kernels, arguments)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            compiled = [
                pool.submit(by.run, *arguments, "-c", "-o", folder / name, scratch=folder)
                for name, (by, arguments) in objects.items()
            ]
            for job in compiled:
                job.result()
        linked = folder / target.library_name
        arguments = ["-shared", "-pthread", "-o", linked, *(folder / name for name in objects)]
        if compiler.is_zig:  # the sources need no C++ library; zig's would be compiled first
            arguments += ["-nostdlib++", "-O3", "-s"]
        if target.system == "darwin":
            arguments.append(f"-Wl,-install_name,@rpath/{target.library_name}")  # not the name of the temporary folder
        compiler.run(*arguments, scratch=folder)
        with linked.open("rb+") as file:  # a power cut leaves no name without the content
            os.fsync(file.fileno())
        if not (keep and library.exists()):
            linked.replace(library)
