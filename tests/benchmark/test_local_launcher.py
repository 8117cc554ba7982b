"""Processes on this machine: a training that is ended, or dies, leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time

import pytest
from sweep_cases import TRAINING

from nnunetv2_mamba.benchmark import local_launcher
from nnunetv2_mamba.benchmark.sweep import Machine

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

# A training with a worker; on SIGTERM it writes a checkpoint, and dies of a second one, as while Python ends.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def save(*_):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (folder / "asked").touch()
    time.sleep(0.2)
    (folder / "checkpoint").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
worker = os.fork()
if worker == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(600)
(folder / "worker").write_text(f"{worker}")
(folder / "ready").touch()
time.sleep(600)
"""


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return state.strip()[:1] in ("Z", "")  # ended, but nobody has asked for its exit code


@pytest.fixture
def training(tmp_path, monkeypatch):
    monkeypatch.setattr(local_launcher, "command_of", lambda *_: [sys.executable, "-S", "-c", SCRIPT, str(tmp_path)])
    launched = local_launcher.LocalLauncher(tmp_path, Machine("cpu")).start(TRAINING, 0)
    while not (tmp_path / "ready").exists():
        assert launched.poll() is None, TRAINING.log(tmp_path).read_text()
        time.sleep(0.01)
    yield launched
    launched.stop()


def test_a_training_that_is_stopped_writes_its_checkpoint_and_ends_with_its_worker(training, tmp_path):
    training.ask_to_stop()
    while not (tmp_path / "asked").exists():
        time.sleep(0.01)
    training.stop()
    assert training.poll().how == "exit code 143" and (tmp_path / "checkpoint").exists()
    assert gone(int((tmp_path / "worker").read_text()))


def test_a_training_that_is_killed_leaves_no_worker(training, tmp_path):
    training.process.send_signal(signal.SIGKILL)
    while training.poll() is None:
        time.sleep(0.01)
    assert training.poll().how == "killed by signal 9"
    assert gone(int((tmp_path / "worker").read_text()))
