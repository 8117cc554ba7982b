"""Starting the processes of trainings on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nnunetv2_mamba.processes import end_group, start_group

from .launcher import Launched, Outcome, outcome_of
from .sweep import Machine
from .training import Training


def run_process(
    command: list[str], environment: dict[str, str], log: Path, start: Callable[..., subprocess.Popen]
) -> subprocess.Popen:
    """Call ``start`` with a command, in this environment and more; its output is appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    with log.open("ab") as output:
        return start(command, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def command_of(training: Training, folder: Path, machine: Machine) -> list[str]:
    """Return the command of a training's process."""
    command = [sys.executable, "-m", "nnunetv2_mamba.benchmark.job", str(training.file(folder))]
    command += ["--device", machine.device]
    return command if machine.threads is None else [*command, "--threads", str(machine.threads)]


def environment_of(machine: Machine) -> dict[str, str]:
    """Return the variables that a training's process gets besides this one's."""
    threads = {} if machine.threads is None else {"OMP_NUM_THREADS": str(machine.threads)}
    return {**threads, **machine.environment}


class LocalLauncher:
    """Starts processes at the head of process groups, so that a training's workers end with it."""

    def __init__(self, folder: Path, machine: Machine):
        self.folder, self.machine, self.slots = folder, machine, machine.jobs or 1

    def left_behind(self, training: Training) -> None:
        """Return None: nothing waits for its start here."""

    def start(self, training: Training, slot: int) -> Launched:
        """Start the process of a training, on the GPU whose turn the slot is."""
        environment = environment_of(self.machine)
        if self.machine.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = str(self.machine.gpus[slot % len(self.machine.gpus)])
        command, log = command_of(training, self.folder, self.machine), training.log(self.folder)
        return _LocalProcess(run_process(command, environment, log, start_group))


class _LocalProcess:
    independent = False

    def __init__(self, process: subprocess.Popen):
        self.process, self.asked = process, False

    def poll(self) -> Outcome | None:
        code = self.process.poll()
        if code is None:
            return None
        end_group(self.process)  # a killed training leaves workers
        return outcome_of(code)

    def ask_to_stop(self) -> None:
        self.process.terminate()
        self.asked = True

    def stop(self) -> None:
        end_group(self.process, asked=self.asked)
