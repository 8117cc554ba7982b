"""What is said where Triton cannot work on a device: which package to install, or that it is to be tried again."""

import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from nnunetv2_mamba.ops.backends import compiler_caches, toolchain, triton_devices
from nnunetv2_mamba.ops.device_errors import CheckPostponedError

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs that are not there, the second one old; what Triton's driver says is in ``raises``, what was done in
    ``done``."""
    machine = SimpleNamespace(raises=None, done=[])

    def look():
        machine.done.append("driver")
        if machine.raises is not None:
            raise machine.raises

    @contextmanager
    def current(device):
        machine.done.append(str(device))
        yield

    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=look))
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(runtime=SimpleNamespace(driver=driver)))
    monkeypatch.setattr(compiler_caches, "provide", lambda: machine.done.append("folders"))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", current)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if device == FIRST else (6, 1))
    triton_devices.available.cache_clear()
    yield machine
    triton_devices.available.cache_clear()


def test_the_folders_are_there_before_anything_is_compiled(gpus):
    assert triton_devices.available(FIRST) is None
    assert gpus.done == ["folders", "cuda:0", "driver"]
    triton_devices.available(FIRST)
    assert len(gpus.done) == 3


def test_the_device_that_is_asked_about_decides(gpus, monkeypatch):
    assert "compute capability 7.0" in triton_devices.available(SECOND)
    assert triton_devices.available(FIRST) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")  # AMD's numbers are others
    triton_devices.available.cache_clear()
    assert triton_devices.available(SECOND) is None


@pytest.mark.parametrize(
    ("error", "headers", "remedy"),
    [
        (
            RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
            True,
            "apt install gcc",
        ),
        (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), False, "apt install python3-dev"),
        (subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"]), True, "please report this"),
        (
            RuntimeError("main.c:5:10: fatal error: Python.h: No such file or directory"),
            True,
            "apt install python3-dev",
        ),
        (PermissionError(13, "Permission denied", "/home/me/.triton"), True, "set TRITON_CACHE_DIR"),
        (RuntimeError("0 active drivers ([]). There should only be one."), True, "please report this"),
    ],
    ids=str,
)
def test_reasons_have_a_remedy_and_are_remembered(gpus, monkeypatch, error, headers, remedy):
    monkeypatch.setattr(toolchain, "_has_headers", lambda: headers)
    gpus.raises = error
    reason = triton_devices.available(FIRST)
    assert type(error).__name__ in reason and remedy in reason and "\n" not in reason
    gpus.raises = None
    assert triton_devices.available(FIRST) == reason


def test_a_device_in_use_is_asked_again(gpus):
    gpus.raises = RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
    with pytest.raises(CheckPostponedError, match="busy or unavailable.*try again"):
        triton_devices.available(FIRST)
    gpus.raises = None
    assert triton_devices.available(FIRST) is None
