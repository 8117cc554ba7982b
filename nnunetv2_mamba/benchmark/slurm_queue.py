"""What SLURM says of the user's jobs: one ``squeue`` for all of them, now and then.

``squeue`` and not ``sacct``, which many clusters do not have and which reports the end of a job that SLURM has put back
into its queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import NamedTuple

from nnunetv2_mamba.text import last_line

# SLURM's states of a job that is over; in all others it is in the queue, or on its way to the end or back into it.
_TAKEN_BACK = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})
_OVER = _TAKEN_BACK | {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "LAUNCH_FAILED"}
UNKNOWN = "UNKNOWN"  # SLURM forgets jobs some minutes after their end
LOOK_EVERY = 30.0  # seconds
_LOOK_AGAIN = 3.0  # seconds, where a job seems to have ended
_PATIENCE = 120.0  # seconds for SLURM's commands


class JobState(NamedTuple):
    """What SLURM says of a job.

    Attributes:
        name: SLURM's word for the state.
        exit_code: as SLURM writes it.
        reason: why the job is in the state.
    """

    name: str
    exit_code: str = "0"
    reason: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended for good, as far as SLURM knows."""
        return self.name in _OVER or self.name == UNKNOWN

    @property
    def taken_back(self) -> bool:
        """Whether the machine was taken from it. A job with a time of grace, which begins with SIGTERM, fails."""
        if self.name == "FAILED":
            status = self.exit_code.split(":")[0]  # status:signal, or both in one number as waitpid has them
            return status.isdecimal() and 128 + signal.SIGTERM in (int(status), int(status) >> 8)
        return self.name in _TAKEN_BACK

    @property
    def held(self) -> bool:
        """Whether it will not start before somebody releases it."""
        return self.name == "PENDING" and "held" in self.reason.lower()


class SlurmQueue:
    """Knows the states of the user's jobs.

    Args:
        report: tells the user that SLURM does not answer, and that it does again.
    """

    def __init__(self, report: Callable[[str], None]):
        self._report = report
        self._states: dict[str, JobState] = {}
        self._tried = self._seen = float("-inf")  # when SLURM was asked last, and when it answered
        self._silent = False
        self._to_cancel: list[str] = []

    def state(self, job: str, since: float, soon: bool = False) -> JobState | None:
        """Tell the state of a job; None while SLURM has said nothing later than ``since`` (of ``time.monotonic``).

        Args:
            soon: whether to ask SLURM sooner than usual.
        """
        if time.monotonic() >= self._tried + (_LOOK_AGAIN if soon else LOOK_EVERY):
            self._look()
        if self._seen < since:
            return None
        if job not in self._states:
            self._states[job] = _accounted(job)  # once: the next look forgets it, but nobody asks again
        return self._states[job]

    def _look(self) -> None:
        self._tried = began = time.monotonic()
        command = ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}"]
        command += ["--Format=JobID:30,State:30,exit_code:20,Reason:100"]
        try:
            lines = _output(command).splitlines()
        except (OSError, subprocess.SubprocessError) as error:
            if not self._silent:
                self._report(f"SLURM does not tell of its jobs ({_reason(error)}); waiting until it does")
            self._silent = True
            return
        if self._silent:
            self._report("SLURM tells of its jobs again")
        self._seen, self._silent = began, False
        rows = [line.strip().split(None, 3) for line in lines]
        self._states = {row[0]: JobState(*row[1:]) for row in rows if len(row) == 4}

    def cancel_later(self, job: str) -> None:
        """Remember a job for ``cancel``."""
        self._to_cancel.append(job)

    def cancel(self) -> None:
        """Cancel all jobs of ``cancel_later`` by one ``scancel``; if that fails, say how to do it."""
        if not self._to_cancel:
            return
        command = ["scancel", *self._to_cancel]
        try:
            _output(command)
        except (OSError, subprocess.SubprocessError) as error:
            self._report(f"jobs of the cluster go on ({_reason(error)}); end them with: {' '.join(command)}")
        self._to_cancel.clear()


def _accounted(job: str) -> JobState:
    """Ask SLURM's accounting, if there is one, for a job that ``squeue`` no longer shows."""
    command = ["sacct", "--noheader", "--allocations", "--format=State%40,ExitCode%20", "--jobs", job]
    try:
        words = _output(command).split()
    except (OSError, subprocess.SubprocessError):
        words = []
    return JobState(words[0], words[-1]) if words and words[0] in _OVER else JobState(UNKNOWN)


def _output(command: list[str]) -> str:
    """Run one of SLURM's commands, without the user's settings of ``squeue``, and return what it prints.

    Raises:
        OSError: if it cannot be started.
        subprocess.SubprocessError: if it fails or does not end within ``_PATIENCE``.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    options = {"env": environment, "timeout": _PATIENCE, "stdin": subprocess.DEVNULL}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=True, **options).stdout


def _reason(error: Exception) -> str:
    """Return the last line that the command printed, or what became of it."""
    printed = error.stderr if isinstance(error, subprocess.CalledProcessError) else ""
    return last_line(printed, str(error))
