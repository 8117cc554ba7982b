"""Starting the process of a run: on this machine, or on a cluster through submitit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from nnunetv2_mamba.processes import end_group, start_group
from nnunetv2_mamba.text import printable

from .run import Run
from .sweep import Machine, SweepError


class Started(Protocol):
    """A run under way."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def ask_to_stop(self) -> None:
        """Ask it to end, and return at once: our trainers write a checkpoint."""

    def stop(self) -> None:
        """End it with all that it started, after the time that a checkpoint needs."""


class Runner(Protocol):
    """Starts runs; ``slots`` is how many may be under way (None: any number)."""

    slots: int | None

    def start(self, run: Run, slot: int) -> Started: ...


def make_runner(folder: Path, machine: Machine, slurm: dict[str, Any] | None) -> Runner:
    return LocalRunner(folder, machine) if slurm is None else SubmititRunner(folder, machine, slurm)


def run_process(
    command: list[str], environment: dict[str, str], log: Path, start: Callable[..., subprocess.Popen]
) -> subprocess.Popen:
    """``start`` a command in this environment and more, its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    with log.open("ab") as output:
        return start(command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def _command(run: Run, folder: Path, machine: Machine) -> list[str]:
    command = [sys.executable, "-m", "nnunetv2_mamba.benchmark.job", str(run.file(folder)), "--device", machine.device]
    return command if machine.threads is None else [*command, "--threads", str(machine.threads)]


def _environment(machine: Machine) -> dict[str, str]:
    threads = {} if machine.threads is None else {"OMP_NUM_THREADS": str(machine.threads)}
    return {**threads, **machine.environment}


class LocalRunner:
    """Subprocesses at the head of process groups, so that a training's workers end with it."""

    def __init__(self, folder: Path, machine: Machine):
        self.folder, self.machine, self.slots = folder, machine, machine.jobs or 1

    def start(self, run: Run, slot: int) -> Started:
        environment = _environment(self.machine)
        if self.machine.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.machine.gpus[slot % len(self.machine.gpus)])
        command, log = _command(run, self.folder, self.machine), run.log(self.folder)
        return _LocalProcess(run_process(command, environment, log, start_group))


class _LocalProcess:
    def __init__(self, process: subprocess.Popen):
        self.process, self.asked = process, False

    def poll(self) -> int | None:
        code = self.process.poll()
        if code is not None:
            end_group(self.process)  # a killed training leaves workers
        return code

    def ask_to_stop(self) -> None:
        self.process.terminate()
        self.asked = True

    def stop(self) -> None:
        end_group(self.process, asked=self.asked)


class SubmititRunner:
    """Jobs of a cluster. ``parameters`` are submitit's (``slurm_partition``, ``timeout_min``, ...), and ``cluster``."""

    def __init__(self, folder: Path, machine: Machine, parameters: dict[str, Any]):
        try:
            import submitit
        except ImportError as error:
            raise SweepError("[slurm] needs submitit: pip install 'nnunetv2-mamba[slurm]'") from error
        parameters = dict(parameters)
        cluster = parameters.pop("cluster", "slurm")
        self.folder, self.machine, self.slots = folder, machine, machine.jobs
        try:
            self.executor = submitit.AutoExecutor(folder / "submitit", cluster=cluster)
            self.executor.update_parameters(name="nnunetv2_mamba", **parameters)
        except (RuntimeError, ValueError, TypeError, NameError) as error:  # submitit's, for what it does not know
            raise SweepError(f"[slurm]: submitit does not accept this: {error}") from error

    def start(self, run: Run, slot: int) -> Started:
        command, log = _command(run, self.folder, self.machine), run.log(self.folder)
        return _SubmittedJob(self.executor.submit(run_to_end, command, _environment(self.machine), log))


def run_to_end(command: list[str], environment: dict[str, str], log: Path) -> int:
    """On the cluster's machine: run ``command`` and return its exit code. In this process's group: some clusters end
    a job by it."""
    return run_process(command, environment, log, subprocess.Popen).wait()


class _SubmittedJob:
    def __init__(self, job: Any):
        self.job = job

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        try:
            return self.job.result()
        except Exception as error:  # the job was cancelled, ran out of time, its machine died, ...
            text = f"job {self.job.job_id} of the cluster ended without a result: {error}"
            print(printable(" ".join(text.split())), file=sys.stderr)
            return 1

    def ask_to_stop(self) -> None:
        self.job.cancel()

    def stop(self) -> None:
        """The cluster ends it."""
