"""Another system in which the package and its tests can be tried on Linux, as far as that goes:

    SIMULATED_SYSTEM=Windows PYTHONPATH=tests python -m pytest -p simulated_system      (or Darwin)

Python, torch, nnU-Net and the compiled kernels stay Linux's. The modules of the package and the tests find ``os``,
``signal`` and their like with what that system has of them, and new processes are spawned. On Windows there is no
``fcntl``, and this process is held to how files are there: one that is open can be neither removed nor replaced, what
the package writes has no ``:`` in its name, and it makes no links. Paths with drives, line ends and other processes
stay Linux's.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import importlib
import multiprocessing
import os
import platform
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = str(ROOT / "nnunetv2_mamba") + os.sep
KERNELS = PACKAGE + str(Path("ops", "backends", "cpu_build"))
OURS = PACKAGE, *(str(ROOT / folder) + os.sep for folder in ("tests", "benchmarks"))

# Of Python's documentation ("Availability"), what somebody might use
NOT_ON_WINDOWS = {
    "os": "fork forkpty register_at_fork killpg getpgid setpgid getpgrp setpgrp getsid setsid getuid geteuid getgid "
    "getegid getgroups setuid setgid nice getpriority setpriority sched_getaffinity sched_setaffinity uname statvfs "
    "mkfifo mknod chown lchown fchown fchdir chroot wait wait3 wait4 waitid getloadavg sysconf sysconf_names confstr "
    "pread pwrite sendfile memfd_create openpty posix_fadvise posix_fallocate posix_spawn O_CLOEXEC O_DIRECTORY "
    "O_NOFOLLOW O_NOCTTY O_SYNC O_NONBLOCK WIFEXITED WIFSIGNALED WEXITSTATUS WTERMSIG",
    "signal": "alarm setitimer getitimer ITIMER_REAL ITIMER_VIRTUAL ITIMER_PROF pthread_sigmask pthread_kill sigwait "
    "sigtimedwait siginterrupt pause SIG_BLOCK SIG_UNBLOCK SIG_SETMASK "
    + " ".join({each.name for each in signal.Signals} - {f"SIG{n}" for n in "ABRT FPE ILL INT SEGV TERM".split()}),
    "socket": "AF_UNIX",
}
NOT_ON_DARWIN = {"os": "sched_getaffinity sched_setaffinity memfd_create posix_fadvise posix_fallocate"}
SYSTEMS = {
    "Windows": (NOT_ON_WINDOWS, {"fcntl", "resource", "pwd", "grp", "termios", "pty"}, "nt", "win32"),
    "Darwin": (NOT_ON_DARWIN, set(), "posix", "darwin"),
}
SYSTEM = os.environ["SIMULATED_SYSTEM"]
HIDDEN, ABSENT, OS_NAME, SYS_PLATFORM = SYSTEMS[SYSTEM]
REPLACED = {"os": {"name": OS_NAME}, "sys": {"platform": SYS_PLATFORM}, "platform": {"system": lambda: SYSTEM}}


class View:
    """A module without some of its names and with other values for some; what is set on it is set on the module."""

    __slots__ = ("_hidden", "_module", "_replaced")

    def __init__(self, module: ModuleType):
        set_own = partial(object.__setattr__, self)
        set_own("_module", module)
        set_own("_hidden", frozenset(HIDDEN.get(module.__name__, "").split()))
        set_own("_replaced", REPLACED.get(module.__name__, {}))

    def __getattribute__(self, name: str) -> object:
        module, hidden, replaced = (object.__getattribute__(self, own) for own in ("_module", "_hidden", "_replaced"))
        if name in hidden:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r} on {SYSTEM}")
        return replaced[name] if name in replaced else getattr(module, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(object.__getattribute__(self, "_module"), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(object.__getattribute__(self, "_module"), name)


def locking(handle: int, mode: int, size: int) -> None:
    """As ``msvcrt.locking`` with LK_NBLCK."""
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, size)


VIEWS = {module.__name__: View(module) for module in (os, platform, signal, socket, sys)}
MSVCRT = SimpleNamespace(locking=locking, LK_NBLCK=2)


def importing(real: Callable) -> Callable:
    """``__import__`` that gives the views to the modules of this repository."""

    def imports(name: str, globals=None, locals=None, fromlist=(), level: int = 0) -> object:
        importer = str((globals or {}).get("__file__", ""))
        if level == 0 and importer.startswith(OURS) and not importer.startswith(KERNELS):
            check_module(name)
            if name in VIEWS:
                return VIEWS[name]
            if name == "msvcrt" and name not in sys.modules and SYSTEM == "Windows":
                return MSVCRT
        return real(name, globals, locals, fromlist, level)

    return imports


def check_module(name: str) -> None:
    """Raise what an import raises of a module that is not there."""
    if name in ABSENT:
        raise ModuleNotFoundError(f"No module named {name!r} on {SYSTEM}", name=name)


def is_open(path: Path) -> bool:
    """Whether this process has a file open, or mapped."""
    if path.is_symlink() or not path.is_file() or path.is_relative_to("/dev/shm"):  # a link is not what it leads to
        return False
    found = path.stat()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if os.path.samestat(descriptor.stat(), found):
                return True
        except OSError:  # closed meanwhile
            continue
    mapped = b" " + os.fsencode(path.absolute()) + b"\n"
    return mapped in Path("/proc/self/maps").read_bytes()


def check_name(path: Path) -> None:
    """Raise what Windows says of a name that no file can have there."""
    device = r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?"
    if re.search(r'[<>:"|?*\x01-\x1f\\]|[. ]$', path.name) or re.fullmatch(device, path.name):
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", str(path))


def by_the_package() -> bool:
    """Whether of this repository's functions that run, the package's is the last one called."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(PACKAGE)


def hold_to_windows(event: str, arguments: tuple) -> None:
    """An audit hook: an operation on files that Windows refuses raises as there."""
    if event not in ("open", "os.mkdir", "os.remove", "os.rename", "os.symlink") or isinstance(arguments[0], int):
        return
    paths = [Path(os.fsdecode(path)) for path in arguments[: 2 if event == "os.rename" else 1] if path is not None]
    if event in ("os.remove", "os.rename"):
        for path in filter(is_open, paths):
            raise PermissionError(errno.EACCES, "The process cannot access the file: it is being used", str(path))
    creates = event in ("os.mkdir", "os.rename") or (event == "open" and arguments[2] & os.O_CREAT)
    if creates and by_the_package():
        check_name(paths[-1])
    if event == "os.symlink" and by_the_package():
        raise OSError(errno.EPERM, "A required privilege is not held by the client", str(paths[0]))


multiprocessing.set_start_method("spawn", force=True)
builtins.__import__ = importing(builtins.__import__)
import_module = importlib.import_module  # pytest.importorskip calls it
importlib.import_module = lambda name, package=None: check_module(name) or import_module(name, package)
if SYSTEM == "Windows":
    shutil._use_fd_functions = False  # a tree is removed by its paths there
    sys.addaudithook(hold_to_windows)
