"""SIGTERM, and a cluster's warnings, are noted instead of ending the process, and nobody else's are taken."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import threading
import time

import pytest

from nnunetv2_mamba.nnunet.preemption import Preempted, TerminationRequest

SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)]


def _wait(started: multiprocessing.synchronize.Event) -> None:
    started.set()
    time.sleep(60)


@pytest.mark.skipif(os.name == "nt", reason="nothing forks there")
@pytest.mark.parametrize("number", SIGNALS)
def test_forked_children_still_die_of_it(number):
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    request = TerminationRequest()
    with request.in_force():
        child = fork.Process(target=_wait, args=(started,))
        child.start()
        assert started.wait(60)
        os.kill(child.pid, number)
        child.join(60)
        assert child.exitcode == -number
        request.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Preempted):
            request.check()


@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGTERM])
@pytest.mark.parametrize("taken", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_warning_that_somebody_else_handles_is_left_to_them(number, taken):
    before = signal.signal(number, taken)
    try:
        request = TerminationRequest()
        with request.in_force():
            assert signal.getsignal(number) == taken
            os.kill(os.getpid(), number)
            request.check()
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_nothing_changes():
    def enter() -> None:
        request = TerminationRequest()
        with request.in_force():
            handlers.append(signal.getsignal(signal.SIGTERM))
            request.check()

    handlers: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals cannot be held back there")
def test_an_interrupt_that_comes_with_the_signal_asks_to_stop_in_a_process_of_several_gpus(monkeypatch):
    """As where both come during a long operation on the GPU: Python then handles SIGINT first."""
    before, request = signal.getsignal(signal.SIGINT), TerminationRequest()
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: "nnU-Net's")
    both = {signal.SIGTERM, signal.SIGINT}
    interrupted = False
    try:
        with request.in_force():
            signal.pthread_sigmask(signal.SIG_BLOCK, both)
            for number in both:
                os.kill(os.getpid(), number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, both)
    except KeyboardInterrupt:
        interrupted = True
    assert not interrupted
    with pytest.raises(Preempted):
        request.check()
    assert signal.getsignal(signal.SIGINT) == before and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_interrupts_is_ignored_from_then_on_and_handled_as_before_afterwards():
    before, request = signal.getsignal(signal.SIGINT), TerminationRequest()
    with request.in_force():
        assert signal.getsignal(signal.SIGINT) == before
        os.kill(os.getpid(), signal.SIGTERM)
        request_received = request.received
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    assert request_received == signal.SIGTERM
    assert signal.getsignal(signal.SIGINT) == before and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
