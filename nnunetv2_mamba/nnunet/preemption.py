"""Signals with which a cluster takes a machine back: note them, so that the training can stop in order."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nnunetv2_mamba import forked_children

# What systems send ahead of the end: SIGUSR1 and SIGUSR2 are SLURM's, submitit's, LSF's and SGE's warning of a time
# limit, SIGXCPU that of a limit on processor time. Where they exist; left alone each would end the process at once.
_WARNINGS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")


class Preempted(Exception):  # noqa: N818  (not an error)
    """The training was asked to stop."""


class TerminationRequest:
    """While in force, SIGTERM and a cluster's warnings set ``received`` in this process instead of ending it.

    A warning is left to whoever handles or ignores it already. SIGINT is noted too in a process that nnU-Net has
    started for one of several GPUs: torch sends it where nnU-Net's own process dies of the signal. Forked children die
    of the signals as ever. Outside the main thread, where Python allows no handlers, nothing changes.

    Attributes:
        received: the signal that came first, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within, signals are noted."""
        warnings = [getattr(signal, name) for name in _WARNINGS if hasattr(signal, name)]
        unhandled = [number for number in warnings if signal.getsignal(number) == signal.SIG_DFL]
        interrupt = signal.getsignal(signal.SIGINT)
        if multiprocessing.parent_process() is not None and interrupt == signal.default_int_handler:
            unhandled.append(signal.SIGINT)  # of signals that have come meanwhile Python handles this one first
        try:
            with forked_children.handled([signal.SIGTERM, *unhandled], self._handle):
                yield
        finally:
            if self.received is not None and interrupt is not None:  # None: not from Python, which cannot set it
                signal.signal(signal.SIGINT, interrupt)

    def _handle(self, number: int, frame: object) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            # torch's may follow, also to a process that somebody else has started and that does not note it
            signal.signal(signal.SIGINT, signal.SIG_IGN)

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
        with self.in_force():
            try:
                training()
            except Exception:  # also what follows when the signal hit the data loading processes first
                if self.received is None:
                    raise
                save(self.received.name)
            if self.received is not None:
                raise SystemExit(128 + self.received)
