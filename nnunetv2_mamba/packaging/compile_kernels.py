"""Compiles the CPU kernels into the installed package, while an image is built: ``python -m ….compile_kernels``.

Into the package, because whoever runs the container may have any user id and no folder of their own.
"""

from pathlib import Path

from nnunetv2_mamba.ops.backends import cpu_build

if __name__ == "__main__":
    library = Path(cpu_build.__file__).parents[1] / cpu_build.LIBRARY_NAME  # where cpu_library looks
    cpu_build.build(library, cpu_build.find_compiler())
    print(library)
