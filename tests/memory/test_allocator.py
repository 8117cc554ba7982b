"""Freed memory, in processes of their own: the setting is the whole process's."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

PROGRAM = """
import resource, torch
from nnunetv2_mamba.memory.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(40 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory())
for _ in range(8):  # a free block is a little too small for an equal one, until some lie side by side
    faults()
print(faults())
"""


def run(**variables: str) -> list[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    command = [sys.executable, "-c", PROGRAM]
    return subprocess.run(command, env=own | variables, check=True, capture_output=True, text=True).stdout.split()


@glibc
def test_freed_memory_is_used_again():
    before, kept, after = run()
    assert kept == "True"
    assert int(before) >= 5 * 20  # pages of 2 MiB, where the system gives them unasked
    assert int(after) < 5


@glibc
@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", pytest.param("GLIBC_TUNABLES", marks=pytest.mark.slow)])
def test_the_users_own_choice_stands(variable):
    value = "glibc.malloc.trim_threshold=131072" if variable == "GLIBC_TUNABLES" else "131072"
    assert run(**{variable: value})[1] == "False"


def test_another_c_library_is_left_alone(monkeypatch):
    from nnunetv2_mamba.memory import allocator

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator.keep_freed_memory() is False
