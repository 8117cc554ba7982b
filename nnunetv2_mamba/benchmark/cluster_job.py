"""What a cluster's machine calls for a training: its process, and what happens when the machine is taken back.

submitit lets SLURM send SIGUSR2 to every process of the job ahead of its time limit. Its own process then asks
``TrainingJob.checkpoint`` what is to be called next and has SLURM requeue the job. When SLURM takes the machine at once
(requeue, preemption, scancel, a node that fails), every process gets SIGTERM, and SIGKILL some seconds later.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from .local_launcher import run_process
from .training import Training

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

_LOOK = 0.2  # seconds
_SIGNALS_APART = 3.0  # seconds within which a signal has reached all processes of a job
_NAMES = ("SIGTERM", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGXCPU")
TAKING = tuple(int(getattr(signal, name)) for name in _NAMES if hasattr(signal, name))
FRUITLESS = 2  # time limits in a row without an epoch more, after which a job is not requeued


def ended_by_signal(code: int) -> bool:
    """Tell whether an exit code, as ``Popen`` gives it, is of a process that a signal of ``TAKING`` ended."""
    return -code in TAKING or code - 128 in TAKING


@dataclass
class TrainingJob:
    """A callable for submitit. It stays in the process group of the job: some clusters end a job by it.

    Attributes:
        training, folder: the training, and the sweep's folder.
        command, environment: of the training's process.
        patience: seconds that it has for its checkpoint when the time limit comes.
        fruitless: how many time limits in a row have let it finish no epoch more.
    """

    training: Training
    folder: Path
    command: list[str]
    environment: dict[str, str]
    patience: float
    fruitless: int = 0

    def __post_init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._code: int | None = None
        self._terminated = False

    def __call__(self) -> int:
        """Run the training and return its exit code.

        Raises:
            SystemExit: where the cluster takes the machine, so that submitit writes no result of a job that may start
                again: the cluster knows what becomes of it.
        """
        self._note_sigterm()
        self._epochs = self.training.epochs_done(self.folder)
        self._process = run_process(self.command, self.environment, self.training.log(self.folder), subprocess.Popen)
        threading.Thread(target=self._await_end, daemon=True).start()
        try:
            while self._code is None:
                time.sleep(_LOOK)
            if ended_by_signal(self._code):
                time.sleep(_SIGNALS_APART)  # for the signal that ends this process, or has submitit call checkpoint
            if self._terminated:
                sys.exit(128 + signal.SIGTERM)
            return self._code
        finally:
            if self._code is None:
                self._process.terminate()

    def checkpoint(self) -> DelayedSubmission | None:
        """Have the training write its checkpoint; submitit calls this, in a signal handler, when the time limit comes.

        Returns:
            What is to be called when the job starts again; None (no requeueing) after too many time limits without an
            epoch more.
        """
        from submitit.helpers import DelayedSubmission

        fruitless = self.fruitless
        if self._process is not None:
            if self._code is None:
                self._process.send_signal(signal.SIGUSR2)  # submitit's local executor signals this process only
            latest = time.monotonic() + self.patience
            while self._code is None and time.monotonic() < latest:
                time.sleep(_LOOK)
            fruitless = 0 if self.training.epochs_done(self.folder) > self._epochs else fruitless + 1
        return None if fruitless >= FRUITLESS else DelayedSubmission(replace(self, fruitless=fruitless))

    def _await_end(self) -> None:
        self._code = self._process.wait()  # not in the main thread: Popen's lock would be held when a signal comes

    def _note_sigterm(self) -> None:
        before = signal.getsignal(signal.SIGTERM)

        def note(number: int, frame: FrameType | None) -> None:
            self._terminated = True
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, note)
