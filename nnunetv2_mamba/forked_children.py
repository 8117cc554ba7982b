"""Signal handlers that forked children do not inherit: they die of the signals as ever.

``multiprocessing`` ends the workers of a pool by SIGTERM and waits for them. With a handler of Python's in it, a child
can lose a signal: Python forgets, in a child, what came before it ran, and looks at nothing that comes just before it
waits for a lock. The pool then waits for ever. So the signals are held back while a process is forked, and the child,
before anything else, takes the default.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

_handled: Counter[int] = Counter()  # how many handlers of this process are in force
_fork = threading.local()  # held: the signals held back by the thread that forks


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Within, these signals call ``handler`` in this process. Afterwards their handlers are those of before.

    Outside the main thread, where Python allows no handlers, nothing changes.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        previous = {int(number): signal.signal(number, handler) for number in numbers}
    _handled.update(list(previous))
    try:
        yield
    finally:
        _handled.subtract(list(previous))
        for number, old in previous.items():
            if old is not None and signal.getsignal(number) == handler:  # None: not from Python, which cannot set it
                signal.signal(number, old)


def _hold_back() -> None:
    _fork.held = [number for number, count in _handled.items() if count > 0]
    if _fork.held:
        signal.pthread_sigmask(signal.SIG_BLOCK, _fork.held)


def _let_come() -> None:
    if _fork.held:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _fork.held)


def _take_the_default() -> None:
    _handled.clear()
    for number in _fork.held:
        signal.signal(number, signal.SIG_DFL)
    _let_come()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_come, after_in_child=_take_the_default)
