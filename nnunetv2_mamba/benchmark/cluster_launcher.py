"""Trainings as jobs of a cluster, through submitit."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import write_text
from nnunetv2_mamba.text import last_line, printable

from .cluster_job import TrainingJob, ended_by_signal
from .launcher import Launched, Outcome, StartRefusedError, outcome_of
from .local_launcher import command_of, environment_of
from .slurm_queue import UNKNOWN, JobState, SlurmQueue
from .sweep import Machine, SweepError
from .training import Training

_SIGNAL_DELAY = 90  # submitit's default: seconds between the signal and the time limit
_CHECKPOINT_SHARE = 0.75  # of them for the checkpoint; the rest for submitit, which then has the job requeued
_REQUEUES = 10_000  # after a time limit; TrainingJob asks for them only while the training gets further
# Seconds until a network file system shows what another machine has written: NFS remembers for up to 60 that a file was
# not there.
_RESULT_TIME = 65.0
# What sbatch says where the same job may be accepted later: a controller that is busy, restarting or full; a partition
# in maintenance; too many jobs of the user. Words of slurm_errno.c.
_PASSING = re.compile(
    "timed out|unable to contact slurm controller|temporarily unable|resource temporarily unavailable|standby mode"
    "|zero bytes were transmitted|connection refused|connection reset|not connected|communication (connection|shutdown)"
    "|message (send|receive) failure|job submit limit|submitjob|partition not available|node not available"
    "|nodes are busy|error writing script|pending shutdown|controller is not responding",
    re.IGNORECASE,
)
# The same sentence of sbatch stands for a full queue and for a job that is too large; a line before it may say which.
_LIMIT = re.compile(r"\b(?:QOS|Assoc)(?!\w*Submit)\w*Limit\b")


class ClusterLauncher:
    """Starts trainings as jobs of a cluster.

    Args:
        folder: of the sweep.
        parameters: submitit's (``slurm_partition``, ``timeout_min``, ...), and ``cluster``.
        report: tells the user what the cluster does.

    Raises:
        SweepError: where submitit is missing or does not accept the parameters.
    """

    def __init__(self, folder: Path, machine: Machine, parameters: dict[str, Any], report: Callable[[str], None]):
        try:
            import submitit
        except ImportError as error:
            raise SweepError("[slurm] needs submitit: pip install 'nnunetv2-mamba[slurm]'") from error
        parameters = dict(parameters)
        cluster = parameters.pop("cluster", "slurm")
        if cluster not in ("slurm", "local"):
            raise SweepError(f'[slurm] cluster: must be "slurm", or "local" to try it without one, got {cluster!r}')
        requeues = parameters.pop("slurm_max_num_timeout", _REQUEUES)
        delay = parameters.get("slurm_signal_delay_s", _SIGNAL_DELAY)
        for name, value in (("slurm_max_num_timeout", requeues), ("slurm_signal_delay_s", delay)):
            if type(value) is not int or value < 0:
                raise SweepError(f"[slurm] {name}: must be a whole number, got {value!r}")
        self.folder, self.machine, self.slots, self.report = folder, machine, machine.jobs, report
        self.queue = SlurmQueue(report) if cluster == "slurm" else None
        self.patience = _CHECKPOINT_SHARE * delay
        try:
            self.executor = submitit.AutoExecutor(folder / "submitit", cluster, slurm_max_num_timeout=requeues)
            self.executor.update_parameters(name="nnunetv2_mamba", **parameters)
        except (RuntimeError, ValueError, TypeError, NameError, AssertionError) as error:  # for what it does not know
            raise SweepError(f"[slurm]: submitit does not accept this: {error}") from error

    def left_behind(self, training: Training) -> str | None:
        """Name a job that an earlier command submitted and that is not over; None if there is none.

        Raises:
            StartRefusedError: while SLURM does not answer.
        """
        if self.queue is None or not (file := _record(training, self.folder)).is_file():
            return None
        job = file.read_text(encoding="ascii").strip()
        state = self.queue.state(job, since=0.0)
        if state is None:
            raise StartRefusedError(
                f"whether job {job} of {training.name} still waits for its start is not known", passing=True
            )
        return None if state.over else f"job {job} of an earlier command is {state.name.lower()}"

    def start(self, training: Training, slot: int) -> Launched:
        """Submit a job.

        Raises:
            StartRefusedError: with what ``sbatch`` says.
            OSError: if its files cannot be written, or there is no ``sbatch``.
        """
        command, environment = command_of(training, self.folder, self.machine), environment_of(self.machine)
        job = self._submit(TrainingJob(training, self.folder, command, environment, self.patience))
        if self.queue is None:
            return _LocalJob(job)
        write_text(_record(training, self.folder), job.job_id + "\n")
        return _SlurmJob(job, training, self.folder, self.queue, self.report)

    def _submit(self, call: TrainingJob) -> Any:
        from submitit.core.utils import FailedSubmissionError, UncompletedJobError

        try:
            with redirect_stderr(io.StringIO()), _without_own_job():  # submitit prints what sbatch says
                return self.executor.submit(call)
        except (UncompletedJobError, FailedSubmissionError) as error:
            said = "; ".join(dict.fromkeys(re.sub(r"^(sbatch: )?(error: )?", "", s) for s in str(error).splitlines()))
            reason = printable(said or "sbatch failed without a word")
            passing = bool(_PASSING.search(reason)) and not _LIMIT.search(reason)
            raise StartRefusedError(f"SLURM accepts no job for {call.training.name}: {reason}", passing) from error


@contextmanager
def _without_own_job() -> Iterator[None]:
    """Hide the variables of the sweep's own job, where it is one, from the new job, which would take some for its own.

    What the user has set for every ``sbatch`` stays.
    """
    if "SLURM_JOB_ID" not in os.environ:
        yield
        return
    from submitit.helpers import clean_env

    kept = {n: value for n, value in os.environ.items() if n == "SLURM_CONF" or n.startswith("SBATCH_")}
    with clean_env():
        os.environ.update(kept)
        yield


def _record(training: Training, folder: Path) -> Path:
    """Return the file that holds the number of the training's last job, for the next command."""
    return training.file(folder).with_suffix(".slurm")


class _SubmittedJob:
    """A job that leaves a result of ``TrainingJob``, or none."""

    def __init__(self, job: Any):
        self.job = job

    def _outcome(self) -> Outcome:
        """Tell by its result, which must be there, how the job ended."""
        error = self.job.exception()
        if error is not None:
            return Outcome(f"job {self.job.job_id} of the cluster: {_last_of_trace(str(error))}")
        code = self.job.result()
        # Somebody sent the signal to the training alone: else the job would have been ended with it.
        return replace(outcome_of(code), taken_back=ended_by_signal(code) and code != -9)


class _LocalJob(_SubmittedJob):
    """A job of submitit's executor for this machine."""

    independent = False

    def poll(self) -> Outcome | None:
        return self._outcome() if self.job.done() else None

    def ask_to_stop(self) -> None:
        self.job.cancel()

    def stop(self) -> None:
        """Do nothing: submitit ends it."""


class _SlurmJob(_SubmittedJob):
    """A job of SLURM.

    It is over when its training is finished, or SLURM says so: a job may be requeued whatever result it has left.
    """

    independent = True

    def __init__(self, job: Any, training: Training, folder: Path, queue: SlurmQueue, report: Callable[[str], None]):
        super().__init__(job)
        self.training, self.folder, self.queue, self.report = training, folder, queue, report
        self._submitted = time.monotonic()
        self._over_since: float | None = None
        self._said_held = False

    def poll(self) -> Outcome | None:
        present = self.job.paths.result_pickle.exists()
        if present and self.training.finished(self.folder):
            return self._outcome()
        state = self.queue.state(self.job.job_id, self._submitted, soon=present)
        if state is None or not state.over:
            self._over_since = None
            if state is not None and state.held and not self._said_held:
                self._said_held = True
                name, number = self.training.name, self.job.job_id
                self.report(f"held     {name}: {state.reason}; it starts after: scontrol release {number}")
            return None
        if self._over_since is None:
            self._over_since = time.monotonic()
        outcome = self._outcome() if present else None
        # No result yet, or not yet the files of a training that says it is finished
        shown_late = state.name == "COMPLETED" and outcome in (None, outcome_of(0))
        if shown_late and time.monotonic() < self._over_since + _RESULT_TIME:
            return None
        if outcome is not None:
            return replace(outcome, taken_back=outcome.taken_back or state.taken_back)
        return Outcome(self._without_result(state), taken_back=state.taken_back)

    def _without_result(self, state: JobState) -> str:
        what = "is no longer known to SLURM" if state.name == UNKNOWN else f"ended as {state.name}"
        # Before the training's process began, perhaps, so that its log does not say why
        told = state.taken_back or state.name not in ("FAILED", "COMPLETED", UNKNOWN)
        log = "" if told else f", see {self.job.paths.stderr}"
        return f"job {self.job.job_id} {what}{log}"

    def ask_to_stop(self) -> None:
        self.queue.cancel_later(self.job.job_id)

    def stop(self) -> None:
        self.queue.cancel()


def _last_of_trace(text: str) -> str:
    """Return the last line of the traceback that submitit quotes between lines of dashes."""
    trace = re.search(r"^-{10,}$(.*?)^-{10,}$", text, re.DOTALL | re.MULTILINE)
    return printable(last_line(trace[1] if trace else text, "no result"))
