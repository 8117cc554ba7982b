"""Compiles the CPU kernels into the installed package, while an image is built: ``python -m ….compile_kernels``.

Into the package, because whoever runs the container may have any user id and no folder of their own.
"""

from pathlib import Path

from nnunetv2_mamba.ops.backends import cpu_build

if __name__ == "__main__":
    library = Path(cpu_build.__file__).with_name(cpu_build.LIBRARY_NAME)
    cpu_build.build(library, cpu_build.find_compiler())
    print(library)
