"""How much memory is free: of the machine, and within the limits of a container or a job."""

import math
from pathlib import Path

import pytest

from nnunetv2_mamba.memory import usage

GIB = 2**30


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Makes a Linux with 100 GiB free and the given files, by their paths."""

    def make(files):
        files = {"/proc/meminfo": f"MemTotal: 9 kB\nMemAvailable: {100 * 2**20} kB\n", **files}
        for name, content in files.items():
            (tmp_path / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name.lstrip("/")).write_text(content)
        monkeypatch.setattr(usage, "Path", lambda *parts: tmp_path / str(Path(*parts)).lstrip("/"))

    return make


def version_1(folder, limit, used, cached):
    files = {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}
    statistics = f"inactive_file 1\ntotal_inactive_file {cached * GIB}\n"
    return {f"{folder}/{name}": str(value * GIB) for name, value in files.items()} | {
        f"{folder}/memory.stat": statistics
    }


def version_2(folder, limit, used, cached):
    limit = "max" if limit is None else limit * GIB
    files = {
        "memory.max": limit,
        "memory.current": used * GIB,
        "memory.stat": f"anon 1\ninactive_file {cached * GIB}\n",
    }
    return {f"{folder}/{name}": str(value) for name, value in files.items()}


OWN_1 = {"/proc/self/cgroup": "3:cpu:/a\n2:memory:/job/step\n0::/\n"}
OWN_2 = {"/proc/self/cgroup": "0::/job/step\n"}
TOP_1, TOP_2 = "/sys/fs/cgroup/memory", "/sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, 100),
        (OWN_2, 100),
        ({**OWN_2, **version_2(f"{TOP_2}/job/step", 30, 12, 2)}, 20),
        ({**OWN_2, **version_2(f"{TOP_2}/job/step", None, 12, 2)}, 100),
        ({**OWN_2, **version_2(f"{TOP_2}/job/step", None, 12, 2), **version_2(f"{TOP_2}/job", 40, 12, 2)}, 30),
        ({**OWN_2, **version_2(f"{TOP_2}/job/step", 300, 12, 2)}, 100),
        ({"/proc/self/cgroup": "0::/\n", **version_2(TOP_2, 30, 12, 2)}, 20),
        ({**OWN_1, **version_1(f"{TOP_1}/job", 30, 12, 2)}, 20),
        ({**OWN_1, **version_1(TOP_1, 30, 12, 2)}, 20),  # as docker mounts a container's own group
        ({**OWN_1, **version_1(TOP_1, 2**33, 12, 2)}, 100),  # no limit
    ],
    ids=range(10),
)
def test_the_free_memory_is_that_of_the_narrowest_group(system, files, free):
    system(files)
    assert usage.free_memory() == free * GIB


def test_a_system_without_these_files_has_the_memory_of_the_machine(system, monkeypatch):
    system({"/proc/meminfo": "nothing"})
    assert GIB < usage.free_memory() < math.inf
    monkeypatch.delattr(usage.os, "sysconf_names")
    assert usage.free_memory() == math.inf
