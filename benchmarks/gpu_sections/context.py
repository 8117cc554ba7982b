"""What a section is told: the device, the sizes, where its rows go, and when the GPU is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

try:
    import fcntl
except ImportError:  # Windows, where the suite is imported only
    fcntl = None

Row = dict[str, Any]
NEEDS_CUDA = "needs CUDA"  # the key of a row that says what was left out on a CPU
NOT_POSSIBLE = "not possible here"  # the key of a row that says why a section has nothing to do on this machine


class GpuLock:
    """Who uses the GPU: any number of processes that prepare, or one that measures.

    A file's lock, which the system takes back when its process ends, however it ends.

    Args:
        path: of the file, the same for all processes.
    """

    def __init__(self, path: Path):
        self._file: IO[str] = path.open("a")
        self.share()

    def share(self) -> None:
        """Wait until nobody measures."""
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def take(self) -> None:
        """Wait until nobody else prepares or measures."""
        fcntl.flock(self._file, fcntl.LOCK_UN)  # else two that wait for each other would wait for ever
        fcntl.flock(self._file, fcntl.LOCK_EX)


@dataclass
class Context:
    """What a section's function gets.

    Attributes:
        device_type: ``"cuda"``, or ``"cpu"`` for a dry run: the same code on tiny sizes, to see that it works.
        emit: takes each row as soon as it is known, so that a section that is ended keeps what it found.
        lock: None where nothing else runs.
        left_out: what a dry run has said already that it leaves out.
    """

    device_type: str
    emit: Callable[[Row], None]
    lock: GpuLock | None = None
    left_out: set[str] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        import torch

        return torch.device(self.device_type)

    @property
    def is_dry(self) -> bool:
        return self.device_type != "cuda"

    def needs_cuda(self, what: str) -> bool:
        """Whether ``what`` has to be left out because this is a dry run; if so, the results say it."""
        if self.is_dry and what not in self.left_out:
            self.left_out.add(what)
            self.emit({NEEDS_CUDA: what})
        return self.is_dry

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Have the GPU alone: all other jobs of the section are prepared and wait, or are done."""
        if self.lock is None:
            yield
            return
        self.lock.take()
        try:
            yield
        finally:
            self.lock.share()
