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
from collections.abc import Iterable

_handled: Counter[int] = Counter()  # how many handlers of this process are in force
_fork = threading.local()  # held: the signals held back by the thread that forks


def add(numbers: Iterable[int]) -> None:
    """Handlers of these signals are in force from now on."""
    _handled.update(map(int, numbers))


def remove(numbers: Iterable[int]) -> None:
    """They no longer are."""
    _handled.subtract(map(int, numbers))


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
