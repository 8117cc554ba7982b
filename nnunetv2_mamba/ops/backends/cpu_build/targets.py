"""What the CPU kernels are compiled for."""

import platform
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A system to compile for.

    Attributes:
        system: `linux`, `darwin` or `win32`, as in `sys.platform`.
        machine: as in `platform.machine()`, in lower case.
    """

    system: str
    machine: str

    @property
    def library_name(self) -> str:
        """The file of the library."""
        return "selective_scan" + {"darwin": ".dylib", "win32": ".dll"}.get(self.system, ".so")

    @property
    def instruction_sets(self) -> tuple[str, ...]:
        """The namespaces of the kernels, as in library.cpp: compilers' names of the instruction sets, or `baseline`."""
        if self.machine in ("x86_64", "amd64"):
            return ("x86_64_v2", "x86_64_v3", "x86_64_v4")
        return ("baseline",)


HERE = Target(sys.platform, platform.machine().lower())
