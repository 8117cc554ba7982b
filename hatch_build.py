"""Puts the compiled CPU kernels into the wheel, when the machine that builds it has a C++ compiler.

Such a wheel is tagged py3-none-<platform>: the library depends on neither Python's nor torch's version. Without a
compiler, or with NNUNETV2_MAMBA_BUILD_KERNEL=0, the wheel is pure Python, and the kernels are compiled on first use
where that is possible. An editable install compiles them into the user's cache, where first use would look for them.

NNUNETV2_MAMBA_WHEEL names the platform of a wheel for another system (`python dev.py wheels`), which zig compiles;
there a failure ends the build.
"""

import importlib.util
import os
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import platform_tags

BACKENDS = Path("nnunetv2_mamba", "ops", "backends")


class KernelBuildHook(BuildHookInterface):
    """Compiles before the wheel is put together; a failure is a warning, never the end of an installation."""

    def initialize(self, version: str, build_data: dict) -> None:
        if os.environ.get("NNUNETV2_MAMBA_BUILD_KERNEL") == "0":
            return
        cpu_build = _load(Path(self.root) / BACKENDS / "cpu_build")
        wheel = os.environ.get("NNUNETV2_MAMBA_WHEEL")
        try:
            if version == "editable":
                cpu_build.cached_library()
                return
            if wheel:
                compiler, target, for_kernels = cpu_build.for_wheel(wheel)
            else:
                compiler, target, for_kernels = cpu_build.find_compiler(), cpu_build.HERE, None
            self._folder = tempfile.TemporaryDirectory()
            library = Path(self._folder.name) / target.library_name
            cpu_build.build(library, compiler, target, for_kernels)
        except (cpu_build.BuildError, OSError) as error:
            if wheel:
                raise
            self.app.display_warning(f"Building without compiled CPU kernels: {error}")
            return
        build_data["force_include"][str(library)] = str(BACKENDS / library.name)
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{wheel or _platform()}"

    def finalize(self, version: str, build_data: dict, artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()


def _platform() -> str:
    # On macOS the compiler builds for the machine and its system, whatever the Python was built for.
    tag = next(platform_tags()) if sys.platform == "darwin" else sysconfig.get_platform()
    return tag.replace("-", "_").replace(".", "_")


def _load(folder: Path) -> ModuleType:
    # By its path: importing the package would need torch, which an isolated build does not have.
    spec = importlib.util.spec_from_file_location(folder.name, folder / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[folder.name] = module  # for its own imports
    spec.loader.exec_module(module)
    return module
