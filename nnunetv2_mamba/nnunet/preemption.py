"""Signals with which a cluster takes a machine back: note them, so that the training can stop in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from nnunetv2_mamba import forked_children

# What systems send ahead of the end: SIGUSR1 and SIGUSR2 are SLURM's, submitit's, LSF's and SGE's warning of a time
# limit, SIGXCPU that of a limit on processor time. Where they exist; left alone each would end the process at once.
_WARNINGS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")


class Preempted(Exception):  # noqa: N818  (not an error)
    """The training was asked to stop."""


class TerminationRequest:
    """While entered, SIGTERM and a cluster's warnings set ``received`` in this process instead of ending it.

    A warning is left to whoever handles or ignores it already. Forked children die of the signals as ever. Outside the
    main thread, where Python allows no handlers, nothing changes.

    Attributes:
        received: the signal that came first, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._taken: list[signal.Signals] = []

    def _handle(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            # With several GPUs nnU-Net's parent process dies of the same signal, and torch interrupts its children then
            self._replace(signal.SIGINT, signal.SIG_IGN)

    def _replace(self, number: signal.Signals, handler: Any) -> None:
        self._previous[number] = signal.signal(number, handler)

    def __enter__(self) -> TerminationRequest:
        if threading.current_thread() is threading.main_thread():
            self._replace(signal.SIGTERM, self._handle)
            for number in (getattr(signal, name) for name in _WARNINGS if hasattr(signal, name)):
                if signal.getsignal(number) == signal.SIG_DFL:
                    self._replace(number, self._handle)
        self._taken = list(self._previous)
        forked_children.add(self._taken)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        forked_children.remove(self._taken)
        for number, handler in self._previous.items():
            if handler is not None:  # None: not from Python, which cannot put it back
                signal.signal(number, handler)
        self._previous = {}

    def check(self) -> None:
        """Raise Preempted if a signal has come."""
        if self.received is not None:
            raise Preempted

    def obeyed_by(self, training: Callable[[], None], save: Callable[[str], None]) -> None:
        """Run ``training``, which calls :meth:`check` where it can stop.

        When a signal asked to stop, ``save`` gets the signal's name to write what continues the training.

        Raises:
            SystemExit: with 128 + the signal's number, as a shell reports a process that the signal ends.
        """
        with self:
            try:
                training()
            except Exception:  # also what follows when the signal hit the data loading processes first
                if self.received is None:
                    raise
                save(self.received.name)
            if self.received is not None:
                raise SystemExit(128 + self.received)
