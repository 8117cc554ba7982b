"""Drills on a real SLURM: a sweep whose jobs lose their machine, and whose cluster fails, in every usual way.

Scheduling is what matters here, so that most drills have ``fake_training.py`` for trainings.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_daemons import ACCOUNTING_PROGRAMS, SlurmDaemons, missing_programs, wait_for

from nnunetv2_mamba.benchmark.training import Training

pytest.importorskip("submitit", reason="the extra slurm is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()), reason=f"SLURM (Debian: slurm-wlm) is not installed: no {missing_programs()}"
    ),
]
SWEEP = """
datasets = [901]
folds = {folds}
[budget]
epochs = {epochs}
iterations = 5
[slurm]
slurm_partition = "low"
timeout_min = 20
cpus_per_task = 1
[[group]]
trainers = ["nnUNetTrainer"]
plans = ["nnUNetPlans"]
"""


@contextlib.contextmanager
def running_daemons(more: str = "", accounting: bool = False) -> Iterator[SlurmDaemons]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has 107 characters at most
    started = SlurmDaemons(folder / "s", more)
    try:
        started.start_munge()
        if accounting:
            started.start_accounting()
        started.start_controller()
        started.start_node()
        yield started
    finally:
        started.stop()
        shutil.rmtree(folder)


@pytest.fixture
def daemons() -> Iterator[SlurmDaemons]:
    with running_daemons() as started:
        yield started


class Sweep:
    """A sweep in a folder, and the commands that work on it."""

    def __init__(self, daemons: SlurmDaemons, folder: Path, folds: int = 1, epochs: int = 20, **slurm: str):
        text = SWEEP.format(folds=list(range(folds)), epochs=epochs)
        for name, value in slurm.items():
            text = re.sub(rf"^{name} = .*\n", "", text, flags=re.MULTILINE)
            text = text.replace("[slurm]\n", f"[slurm]\n{name} = {value}\n")
        self.daemons, self.folder, self.file = daemons, folder / "sweep", folder / "sweep.toml"
        self.file.write_text(text)
        self.trainings = [
            Training("901", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", fold, 0) for fold in range(folds)
        ]
        self.printed: list[Path] = []
        paths = (Path(__file__).parent, Path(__file__).parents[2])
        self.environment = {**daemons.environment, "PYTHONPATH": os.pathsep.join(map(str, paths))}
        self.command = [sys.executable, str(Path(__file__).with_name("fake_sweep.py"))]
        self.command += [str(self.file), "-o", str(self.folder)]

    def start(self, **options: object) -> subprocess.Popen:
        self.printed.append(self.file.with_name(f"printed_{len(self.printed)}"))
        with self.printed[-1].open("wb") as output:
            return subprocess.Popen(
                self.command,
                **{"env": self.environment, "stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **options},
            )

    def end(self, process: subprocess.Popen, code: int = 0) -> str:
        """What the command has printed when it has ended, with this exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(600)
        printed = self.printed[-1].read_text()
        assert process.poll() == code, printed + "".join(map(self.log, self.trainings)) + self.daemons.logs()
        assert "Traceback" not in printed
        return printed

    def log(self, training: Training) -> str:
        file = training.log(self.folder)
        return file.read_text() if file.is_file() else ""

    def epochs(self, number: int = 1) -> None:
        """Wait until every run has done some."""
        wait_for("epochs", lambda: all(training.epochs_done(self.folder) >= number for training in self.trainings))

    def finished(self) -> bool:
        return all(training.finished(self.folder) for training in self.trainings)

    def jobs(self) -> int:
        """How many were submitted."""
        return len(list((self.folder / "submitit").glob("*_submission.sh")))

    def shim(self, text: str) -> None:
        """Put a program before ``sbatch``; ``$n`` is how often it was called, ``$sbatch`` the real one."""
        folder = self.file.with_name("shim")
        folder.mkdir()
        real = shutil.which("sbatch")
        count = f"n=$(cat {folder}/n 2>/dev/null || echo 0); n=$((n + 1)); echo $n > {folder}/n; sbatch={real}\n"
        (folder / "sbatch").write_text(f"#!/bin/bash\n{count}{text}\n")
        (folder / "sbatch").chmod(0o700)
        self.environment["PATH"] = f"{folder}{os.pathsep}{self.environment['PATH']}"


def continued_after(sweep: Sweep, signal_name: str) -> None:
    """Every training wrote its checkpoint at the signal, and began once more where it was."""
    for training in sweep.trainings:
        log = sweep.log(training)
        epoch = re.search(rf"{signal_name}: wrote checkpoint_latest.pth in epoch (\d+)", log)
        assert epoch and f"begins with epoch {epoch[1]}" in log.split(epoch[0])[1], log


def test_jobs_side_by_side(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=4, epochs=4)
    printed = sweep.end(sweep.start())
    assert sweep.finished() and sweep.jobs() == 4 and "| nnUNetTrainer | 4 | 0.5000" in printed


def test_a_cancelled_job_is_submitted_again(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path)
    process = sweep.start()
    sweep.epochs()
    daemons.run("scancel", *daemons.queue("running"))
    assert "ended as CANCELLED" in sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2
    continued_after(sweep, "SIGTERM")


def test_after_the_driver_was_killed_the_next_one_submits_nothing_twice(daemons, tmp_path):
    """One job runs, the other waits for its start."""
    daemons.update_node(state="drain", reason="test")
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    wait_for("jobs", lambda: len(daemons.queue("pending")) == 2)
    first, second = daemons.queue("pending")
    daemons.run("scontrol", "hold", second)
    daemons.update_node(state="resume")
    wait_for("a job", lambda: sweep.trainings[0].epochs_done(sweep.folder))
    process.kill()
    process.wait()
    process = sweep.start()
    wait_for("it to wait", lambda: sweep.printed[-1].read_text().count("of an earlier command is") == 2)
    process.terminate()  # the jobs are not its own
    sweep.end(process, code=128 + signal.SIGTERM)
    process = sweep.start()
    wait_for("it to wait", lambda: sweep.printed[-1].read_text().count("of an earlier command is") == 2)
    daemons.run("scontrol", "release", second)
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2 and "starts" not in printed
    assert f"job {first} of an earlier command is running; waiting" in printed
    assert f"job {second} of an earlier command is pending; waiting" in printed


def test_a_drained_node_is_waited_for(daemons, tmp_path):
    daemons.update_node(state="drain", reason="test")
    sweep = Sweep(daemons, tmp_path, folds=2, epochs=4)
    process = sweep.start()
    wait_for("jobs", lambda: len(daemons.queue("pending")) == 2)
    daemons.update_node(state="resume")
    sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2


def test_a_wrong_partition_is_one_line(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2, slurm_partition='"nosuch"')
    [line] = sweep.end(sweep.start(), code=1).splitlines()
    assert line.startswith("nnunetv2_mamba benchmark: SLURM accepts no job for 901__nnUNetTrainer__")
    assert line.endswith(
        "invalid partition specified: nosuch; Batch job submission failed: Invalid partition name specified"
    )


def test_a_partition_in_maintenance_is_waited_for(daemons, tmp_path):
    daemons.run("scontrol", "update", "partitionname=low", "state=drain")
    sweep = Sweep(daemons, tmp_path, folds=2, epochs=4)
    process = sweep.start()
    wait_for("the sweep to say it", lambda: "delayed  " in sweep.printed[-1].read_text())
    daemons.run("scontrol", "update", "partitionname=low", "state=up")
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2 and printed.count("Required partition not available") == 1


def test_a_busy_controller_is_tried_again(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2)
    failed = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    sweep.shim(f'if (( n >= 2 && n <= 4 )); then echo "{failed}" >&2; exit 1; fi\nexec $sbatch "$@"')
    printed = sweep.end(sweep.start())
    assert sweep.finished() and sweep.jobs() == 2
    assert printed.count("Socket timed out") == printed.count("delayed  ") == 1
    assert "SIGTERM" not in "".join(map(sweep.log, sweep.trainings))


def test_jobs_go_on_where_no_more_are_accepted(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2)
    failed = "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"
    sweep.shim(f'if (( n >= 2 )); then echo "{failed}" >&2; exit 1; fi\nexec $sbatch "$@"')
    printed = sweep.end(sweep.start(), code=1)
    assert sweep.trainings[0].finished(sweep.folder) and "SIGTERM" not in sweep.log(sweep.trainings[0])
    assert printed.splitlines()[-1].endswith("Invalid account or account/partition combination specified")


@pytest.mark.parametrize("requeue", [True, False])
def test_the_time_limit(daemons, tmp_path, requeue):
    """Where the cluster does not requeue, the sweep submits again."""
    forbidden = {} if requeue else {"slurm_additional_parameters": '{ "no-requeue" = true }'}
    sweep = Sweep(daemons, tmp_path, epochs=150, timeout_min="1", slurm_signal_delay_s="20", **forbidden)
    printed = sweep.end(sweep.start())
    continued_after(sweep, "SIGUSR2")
    assert sweep.finished() and "giving up" not in printed
    assert (sweep.jobs() == 1) == requeue and ("failed   " in printed) != requeue


def test_a_time_limit_that_no_epoch_fits_in_is_given_up(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, timeout_min="1", slurm_signal_delay_s="30")
    sweep.file.write_text(sweep.file.read_text().replace("iterations = 5", "iterations = 10000"))
    printed = sweep.end(sweep.start(), code=1)
    assert sweep.jobs() == 2 and "checkpoint function returned None" in printed and "giving up" in printed


def test_a_requeued_job_is_waited_for(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path)
    process = sweep.start()
    sweep.epochs()
    [job] = daemons.queue("running")
    daemons.run("scontrol", "requeue", job)
    wait_for("it to begin again", lambda: sweep.log(sweep.trainings[0]).count("begins with") == 2)
    daemons.run("scontrol", "requeue", job)
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 1 and "failed   " not in printed and "stopped" not in printed
    continued_after(sweep, "SIGTERM")


def test_a_node_that_fails(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    sweep.epochs()
    daemons.update_node(state="down", reason="test")
    daemons.bring_node_back()
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2 and "failed   " not in printed and "stopped" not in printed
    continued_after(sweep, "SIGTERM")


def test_a_node_that_fails_where_jobs_are_not_requeued(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, slurm_additional_parameters='{ "no-requeue" = true }')
    process = sweep.start()
    sweep.epochs()
    daemons.update_node(state="down", reason="test")
    daemons.bring_node_back()
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2
    assert "stopped " in printed and "ended as NODE_FAIL" in printed and "failed   " not in printed


def test_a_node_that_loses_its_power(daemons, tmp_path):
    """Nothing is written when it goes; slurmd then tells of the boot."""
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    sweep.epochs()
    daemons.end_daemon("slurmd")
    daemons.kill_jobs()
    daemons.start_daemon("slurmd", "-D", "-b")
    daemons.bring_node_back()
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2 and "failed   " not in printed
    assert all(sweep.log(training).count("begins with epoch 0") == 2 for training in sweep.trainings)


def test_a_node_that_is_to_reboot_is_waited_for(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2, epochs=6)
    daemons.run("scontrol", "reboot", "ASAP", "nextstate=resume", daemons.node)
    process = sweep.start()
    wait_for("the reboot", (daemons.folder / "rebooted").exists)
    daemons.end_daemon("slurmd")
    daemons.start_node("-b")
    sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2


def test_a_daemon_of_the_node_that_is_restarted(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    sweep.epochs()
    daemons.end_daemon("slurmd")
    daemons.start_node()
    sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2
    assert all(sweep.log(training).count("begins with") == 1 for training in sweep.trainings)


def test_a_controller_that_is_down_for_a_while(daemons, tmp_path):
    """One run ends meanwhile, the next is to be submitted."""
    sweep = Sweep(daemons, tmp_path, folds=2, epochs=10)
    sweep.file.write_text(sweep.file.read_text() + "[machine]\njobs = 1\n")
    process = sweep.start()
    wait_for("a job", lambda: sweep.trainings[0].epochs_done(sweep.folder))
    daemons.end_daemon("slurmctld", "SIGTERM")
    wait_for("the sweep to say it", lambda: "SLURM does not tell of its jobs" in sweep.printed[-1].read_text())
    wait_for("the sweep to say it", lambda: "delayed  " in sweep.printed[-1].read_text(), 300)
    assert sweep.trainings[0].finished(sweep.folder)
    daemons.start_controller()
    printed = sweep.end(process)
    assert sweep.finished() and sweep.jobs() == 2 and "failed   " not in printed
    assert printed.count("SLURM does not tell") == printed.count("SLURM tells of its jobs again") == 1


@pytest.mark.parametrize("grace", [0, 10])
@pytest.mark.parametrize("mode", ["requeue", "cancel"])
def test_preemption(daemons, tmp_path, mode, grace):
    """With a time of grace, SLURM sends SIGTERM ahead of it."""
    daemons.run("scontrol", "update", "partitionname=low", f"preemptmode={mode}", f"gracetime={grace}")
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    sweep.epochs()
    other = daemons.run(
        "sbatch", "--parsable", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3"
    )
    printed = sweep.end(process)
    assert daemons.queue()[other.stdout.strip()] == "COMPLETED"
    assert sweep.finished() and "failed   " not in printed
    requeued = mode == "requeue" and not grace
    assert sweep.jobs() == (2 if requeued else 4)
    ended = "FAILED" if grace else "PREEMPTED"  # by itself, at SIGTERM
    assert printed.count(f"ended as {ended}), trying again") == (0 if requeued else 2)
    continued_after(sweep, "SIGTERM")


@pytest.mark.parametrize("trainer", ["nnUNetTrainer", "nnUNetTrainerUMambaBot"])
def test_a_real_training_at_the_signal_of_a_time_limit(tiny_dataset, tmp_path, trainer):
    """Sent as SLURM sends it, to every process of the job, once the training is under way."""
    plans = "nnUNetPlans" if trainer == "nnUNetTrainer" else "tinyUMambaBotPlans"
    with running_daemons() as daemons:
        sweep = Sweep(daemons, tmp_path, epochs=8)
        text = sweep.file.read_text().replace("nnUNetPlans", plans).replace("nnUNetTrainer", trainer)
        text = text.replace(
            "iterations = 5", "iterations = 2\nvalidation_iterations = 1\nbatch_size = 2\nmirroring = false"
        )
        sweep.file.write_text(text + '[machine]\ndevice = "cpu"\nthreads = 1\n')
        sweep.environment["PYTHONPATH"] = str(Path(__file__).parents[2])
        sweep.trainings = [Training("Dataset901_Tiny", "3d_fullres", plans, trainer, 0, 0)]
        sweep.command[:2] = [sys.executable, "-m", "nnunetv2_mamba", "benchmark"]
        planned = subprocess.run([*sweep.command, "--dry-run"], env=sweep.environment, capture_output=True, text=True)
        assert "1 runs, 0 finished" in planned.stdout and not sweep.folder.exists() and not daemons.queue()
        process = sweep.start()
        sweep.epochs()
        daemons.run("scancel", "--signal=USR2", *daemons.queue("running"))
        printed = sweep.end(process)
        assert sweep.finished() and sweep.jobs() == 1 and "failed   " not in printed
    log = sweep.log(sweep.trainings[0])
    before, after = log.split("SIGUSR2: wrote checkpoint_latest.pth in epoch ", 1)
    epoch = int(after.split(";")[0])
    assert "--c" in after and re.findall(r"Epoch (\d+) *$", after, re.MULTILINE)[0] == str(epoch) != "0"
    assert not re.search(r"Epoch 0 *$", after, re.MULTILINE) and "checkpoint_latest" not in before
    assert (sweep.folder / "results.csv").is_file()


def test_a_full_queue(tmp_path):
    """Of jobs, those over for less than MinJobAge seconds among them."""
    with running_daemons("MaxJobCount=2\nMinJobAge=2") as daemons:
        sweep = Sweep(daemons, tmp_path, folds=3, epochs=4)
        sweep.shim(
            '$sbatch "$@" & pid=$!; (sleep 3; kill $pid) & wait $pid || {\n'
            'echo "sbatch: error: Batch job submission failed: Resource temporarily unavailable" >&2; exit 1; }'
        )
        printed = sweep.end(sweep.start())
    assert sweep.finished() and printed.count("delayed  ") == printed.count("Resource temporarily unavailable") == 2


@pytest.mark.skipif(
    bool(missing_programs(ACCOUNTING_PROGRAMS)),
    reason=f"SLURM's accounting (Debian: slurmdbd, mariadb-server) is not installed: no {ACCOUNTING_PROGRAMS}",
)
@pytest.mark.parametrize("limit", ["MaxSubmitJobs", "MaxJobs"])
def test_limits_of_a_user(tmp_path, limit):
    """Of jobs in the queue, more of which SLURM refuses; of running jobs, more of which wait there."""
    accounting = {"Type": "accounting_storage/slurmdbd", "Host": "127.0.0.1", "Port": "{accounting_port}"}
    accounting |= {"Pass": "{folder}/munge.socket", "Enforce": "limits"}
    more = "\n".join(f"AccountingStorage{name}={value}" for name, value in accounting.items())
    with running_daemons(more, accounting=True) as daemons:
        daemons.run("sacctmgr", "--immediate", "add", "user", getpass.getuser(), "account=tests", f"{limit}=1")
        sweep = Sweep(daemons, tmp_path, folds=3, epochs=4, slurm_account='"tests"')
        printed = sweep.end(sweep.start())
    assert sweep.finished() and sweep.jobs() == 3
    assert (
        printed.count("delayed  ") == printed.count("AssocMaxSubmitJobLimit") == (2 if limit == "MaxSubmitJobs" else 0)
    )


def test_a_held_job_is_told(daemons, tmp_path):
    sweep = Sweep(daemons, tmp_path, epochs=4, slurm_additional_parameters="{ hold = true }")
    process = sweep.start()
    wait_for("the sweep to say it", lambda: "held  " in sweep.printed[-1].read_text())
    [job] = daemons.queue("pending")
    daemons.run("scontrol", "release", job)
    printed = sweep.end(process)
    assert sweep.finished() and printed.count(f"it starts after: scontrol release {job}") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ending_the_sweep_ends_its_jobs(daemons, tmp_path, number, signals_not_ignored):
    sweep = Sweep(daemons, tmp_path, folds=2)
    process = sweep.start()
    sweep.epochs()
    process.send_signal(number)
    sweep.end(process, code=128 + number)
    wait_for("the jobs", lambda: set(daemons.queue().values()) == {"CANCELLED"})
    sweep.end(sweep.start())
    assert sweep.finished()
    continued_after(sweep, "SIGTERM")


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_sweep_that_is_itself_a_job(daemons, tmp_path, cancelled):
    """A task of an array: its variables are not those of the jobs that it submits."""
    sweep = Sweep(daemons, tmp_path, folds=2)
    script = tmp_path / "driver.sh"
    script.write_text(f"#!/bin/bash\nexec {' '.join(sweep.command)}\n")
    options = ["--parsable", "--array=7", f"--output={tmp_path}/printed", "--ntasks=1", "--mem=100"]
    driver = daemons.run("sbatch", *options, script, environment=sweep.environment).stdout.strip()
    sweep.epochs()
    if cancelled:
        daemons.run("scancel", driver)
    wait_for("the end", lambda: not daemons.queue("pending,running,completing"), 300)
    printed = (tmp_path / "printed").read_text()
    assert sweep.finished() != cancelled and sweep.jobs() == 2
    if cancelled:
        assert "ended by SIGTERM" in printed
        sweep.end(sweep.start())
        assert sweep.finished()
        continued_after(sweep, "SIGTERM")
