"""Where ``fcntl`` and ``resource`` do not exist: Windows."""

import errno
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from nnunetv2_mamba import benchmark, memory
from nnunetv2_mamba.benchmark import cost

LK_NBLCK = 2


def loaded_again(room: ModuleType, name: str) -> ModuleType:
    """A module, loaded anew beside the one that is there."""
    file = Path(room.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"{room.__name__}.{name}_again", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_lock(tmp_path, monkeypatch):
    calls, answer = [], []

    def locking(descriptor: int, mode: int, n_bytes: int) -> None:
        calls.append((mode, n_bytes))
        if answer:
            raise answer.pop()

    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=LK_NBLCK))
    lock = loaded_again(benchmark, "lock").lock
    with lock(tmp_path / "a" / "b.lock") as held:
        assert held and calls == [(LK_NBLCK, 1)]
    answer.append(OSError(errno.EACCES, "Permission denied"))
    with lock(tmp_path / "a" / "b.lock") as held:
        assert not held
    answer.append(OSError(errno.EINVAL, "Invalid argument"))
    with (
        pytest.raises(OSError, match="b.lock cannot be locked; name a folder with -o"),
        lock(tmp_path / "a" / "b.lock"),
    ):
        pytest.fail("took it")


def test_the_memory_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(cost, "process_peak", loaded_again(memory, "usage").process_peak)
    unknown = dict.fromkeys(("allocated_bytes", "reserved_bytes", "process_bytes"))
    assert cost.peak_memory(torch.device("cpu")) == unknown
