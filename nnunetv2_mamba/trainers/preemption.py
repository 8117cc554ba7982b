"""SIGTERM, with which a cluster takes a machine back: note it, so that the training can stop in order."""

from __future__ import annotations

import os
import signal
import threading
from types import TracebackType


class Preempted(Exception):  # noqa: N818  (not an error)
    """The training was asked to stop."""


class TerminationRequest:
    """While entered, SIGTERM sets ``received`` in this process instead of ending it.

    Forked children inherit the handler but must still die of a SIGTERM (``multiprocessing`` ends its workers so); they
    are told apart by their process id. Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self) -> None:
        self.received = False
        self._process = os.getpid()
        self._previous = None

    def _handle(self, number: int, frame: object) -> None:
        if os.getpid() == self._process:
            self.received = True
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def __enter__(self) -> TerminationRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def check(self) -> None:
        """Raise Preempted if the signal has come."""
        if self.received:
            raise Preempted
