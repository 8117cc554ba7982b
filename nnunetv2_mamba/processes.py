"""Commands started by a verb, ended with it; and the signals that end a verb, made exceptions.

A training has data-loading processes of its own. A started command therefore leads a process group, so that all of it
can be ended: the command alone is asked first, because it may have a checkpoint to write, then what it leaves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from . import forked_children

CHECKPOINT_TIME = 60.0  # seconds for a command asked to end: a training first finishes its step
_REST_TIME = 5.0  # seconds for the processes it leaves
# What ends a process from outside; where a system has it.
_ENDING = ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")


class Ended(SystemExit):
    """A signal asked this process to end; the code is the one of a process that a signal ended."""

    def __init__(self, number: int):
        super().__init__(128 + number)
        self.signal = signal.Signals(number).name


@contextmanager
def signals_raise() -> Iterator[None]:
    """Within, a signal that would end this process at once raises ``Ended`` (SIGINT: ``KeyboardInterrupt``) in the main
    thread, after ending the workers of ``multiprocessing``, for which a pool would else wait to the end of their work.

    Signals that are ignored (``nohup``) or handled already stay so. Forked children die of the signal as ever.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if "multiprocessing" in sys.modules:
            for worker in sys.modules["multiprocessing"].active_children():
                worker.terminate()
        threading.excepthook = lambda _: None  # a pool's thread may have something to say of workers that are gone
        raise KeyboardInterrupt if number == signal.SIGINT else Ended(number)

    there = [signal.SIGINT, *(getattr(signal, name) for name in _ENDING if hasattr(signal, name))]
    unhandled = [number for number in there if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)]
    excepthook = threading.excepthook
    try:
        with forked_children.handled(unhandled, handle):
            yield
    finally:
        threading.excepthook = excepthook


def run_and_end_with_us(command: Sequence[str], patience: float = CHECKPOINT_TIME, **options: Any) -> int:
    """Run ``command`` and return its exit code, as ``Popen`` gives it. However this ends (``Ended``,
    ``KeyboardInterrupt``, the command's own end), no process of its group is left.

    Args:
        command: the program and its arguments.
        patience: seconds that the command has to end when asked to.
        options: of ``subprocess.Popen``.

    Raises:
        OSError: ``command`` cannot be started.
    """
    process = start_group(command, **options)
    try:
        return process.wait()
    finally:
        end_group(process, patience)


def start_group(command: Sequence[str], **options: Any) -> subprocess.Popen:
    """``Popen`` of a command at the head of a process group of its own, to be ended by ``end_group``."""
    return subprocess.Popen(command, start_new_session=True, **options)


def end_group(process: subprocess.Popen, patience: float = CHECKPOINT_TIME, *, asked: bool = False) -> None:
    """End a command of ``start_group`` and its children: SIGTERM to the command, ``patience`` seconds for it to write
    what it must, SIGTERM to what is left of its group, and at last SIGKILL. An exception meanwhile (a second Ctrl-C)
    brings the SIGKILL forward.

    Args:
        asked: the command has had its SIGTERM. A second one would kill it where it no longer handles the signal: while
            it cleans up, or while Python ends.
    """
    if not hasattr(os, "killpg"):
        _end_tree(process)
        return
    try:
        if process.poll() is None:
            if not asked:
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(patience)
        if _signal_group(process, signal.SIGTERM):
            latest = time.monotonic() + _REST_TIME
            while time.monotonic() < latest and _signal_group(process, 0):
                time.sleep(0.05)
    finally:
        _signal_group(process, signal.SIGKILL)
        process.wait()


def _end_tree(process: subprocess.Popen) -> None:
    """As ``end_group`` on Windows, which has no such groups and no signals to answer: at once, with its children."""
    if process.poll() is None:
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, check=False)
        process.kill()  # where taskkill could not
    process.wait()


def _signal_group(process: subprocess.Popen, number: int) -> bool:
    """Whether the group still had a process to send the signal to."""
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # macOS says EPERM of a group of zombies
        return False
    return True
