"""A pool ends its workers by SIGTERM and waits for them, whatever handlers its process has."""

import os
import signal
import time

import pytest

from nnunetv2_mamba.nnunet.preemption import TerminationRequest
from nnunetv2_mamba.processes import signals_raise

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


def ended_by(pid: int) -> int | None:
    """The signal that ended a child; None if it is still there after a while."""
    latest = time.monotonic() + 20
    while time.monotonic() < latest:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return -os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@pytest.mark.parametrize("handlers", [signals_raise, lambda: TerminationRequest().in_force()], ids=["raise", "note"])
def test_a_signal_that_comes_before_the_child_runs_ends_it(handlers):
    with handlers():
        for _ in range(15):
            pid = os.fork()
            if pid == 0:
                time.sleep(60)
                os._exit(0)
            os.kill(pid, signal.SIGTERM)
            assert ended_by(pid) == signal.SIGTERM


def test_the_handlers_come_back_into_force():
    request = TerminationRequest()
    with request.in_force():
        pid = os.fork()
        if pid == 0:
            os._exit(0 if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received == signal.SIGTERM


def test_what_this_package_does_not_handle_is_inherited():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals_raise():
            pid = os.fork()
            if pid == 0:
                os._exit(0 if signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
