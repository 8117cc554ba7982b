"""What a sweep makes of SLURM's answers. SLURM's commands are faked; ``test_slurm.py`` has the real ones."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from sweep_cases import TRAINING, pretend_finished

from nnunetv2_mamba.benchmark import slurm_queue
from nnunetv2_mamba.benchmark.launcher import Outcome, StartRefusedError
from nnunetv2_mamba.benchmark.sweep import Machine, SweepError
from nnunetv2_mamba.benchmark.training import Training

pytest.importorskip("submitit", reason="the extra slurm is not installed")

from submitit.core.utils import cloudpickle_dump  # noqa: E402

from nnunetv2_mamba.benchmark import cluster_launcher  # noqa: E402
from nnunetv2_mamba.benchmark.cluster_launcher import ClusterLauncher  # noqa: E402

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shell scripts stand for SLURM's commands")


class FakeSlurm:
    """Its commands, which print what the test wrote and note how they were called."""

    def __init__(self, folder: Path):
        self.folder, self.said = folder, []
        for name in ("sbatch", "squeue", "sacct", "scancel", "srun"):
            script = f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\nenv > {folder}/{name}.env\n'
            (folder / name).write_text(script + f". {folder}/{name}.answer\n")
            (folder / name).chmod(0o700)
            self.answers(name, "")
        self.answers("sbatch", f"echo Submitted batch job $(grep -c sbatch {folder}/calls)")

    def answers(self, name: str, script: str) -> None:
        (self.folder / f"{name}.answer").write_text(script)

    def refuses(self, name: str, message: str) -> None:
        self.answers(name, f"cat >&2 <<'END'\n{message}\nEND\nexit 1\n")

    def has(self, state: str, reason: str = "None", job: int = 1, exit_code: str = "0") -> None:
        """Columns as ``squeue`` fills them up."""
        lines = [("77", "RUNNING", "0", "None"), (str(job), state, exit_code, reason)]
        text = "\n".join(f"{job:30}{state:30}{code:20}{reason:100}" for job, state, code, reason in lines)
        self.answers("squeue", f"cat <<'END'\n{text}\nEND\n")

    def calls(self, name: str) -> list[str]:
        file = self.folder / "calls"
        return [line for line in file.read_text().splitlines() if line.split()[0] == name] if file.exists() else []

    def launcher(self, folder: Path, **parameters: object) -> ClusterLauncher:
        TRAINING.write(folder)
        return ClusterLauncher(folder, Machine("cpu"), {"timeout_min": 5, **parameters}, self.said.append)


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(slurm_queue, "LOOK_EVERY", 0.0)
    monkeypatch.setattr(slurm_queue, "_LOOK_AGAIN", 0.0)
    return FakeSlurm(tmp_path / "bin")


def leave_result(launched, outcome: str, result: object) -> None:
    cloudpickle_dump((outcome, result), launched.job.paths.result_pickle)


# starting


@pytest.mark.parametrize(
    ("said", "passing"),
    [
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("Slurm temporarily unable to accept job, sleeping and retrying", True),
        ("Batch job submission failed: Resource temporarily unavailable", True),
        ("Batch job submission failed: Slurm backup controller in standby mode", True),
        ("Batch job submission failed: Zero Bytes were transmitted or received", True),
        ("Batch job submission failed: Required partition not available (inactive or drain)", True),
        ("Batch job submission failed: I/O error writing script/environment to file", True),
        (
            "AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
            "(job submit limit, user's size and/or time limits)",
            True,
        ),
        (
            "QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            True,
        ),
        (
            "QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            False,
        ),
        (
            "invalid partition specified: nosuch\nsbatch: error: Batch job submission failed: Invalid partition name "
            "specified",
            False,
        ),
        ("Batch job submission failed: Requested node configuration is not available", False),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)", False),
        ("Batch job submission failed: Invalid account or account/partition combination specified", False),
        ("Batch job submission failed: Invalid qos specification", False),
        ("Batch job submission failed: Access/permission denied", False),
        ("Invalid generic resource (gres) specification", False),
    ],
)
def test_what_sbatch_says_is_one_line_and_may_pass(slurm, tmp_path, capfd, said, passing):
    slurm.refuses("sbatch", f"sbatch: error: {said}")
    with pytest.raises(StartRefusedError) as refused:
        slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    message = str(refused.value)
    assert refused.value.passing == passing
    assert message == f"SLURM accepts no job for {TRAINING.name}: " + said.replace("\nsbatch: error: ", "; ")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("answer", ["exit 1", "echo what is this"])
def test_an_sbatch_that_says_nothing_of_use(slurm, tmp_path, answer):
    slurm.answers("sbatch", answer)
    with pytest.raises(StartRefusedError, match="accepts no job .*: (sbatch failed without|Could not make sense of)"):
        slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)


@pytest.mark.parametrize("inside", [True, False])
def test_a_sweep_that_is_a_job_hands_only_the_users_variables_on(slurm, tmp_path, monkeypatch, inside):
    users = {"SLURM_CONF": "/etc/other.conf", "SBATCH_ACCOUNT": "mine"}
    own = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_MEM_PER_NODE": "4"}
    for name, value in {**users, **own, **({"SLURM_JOB_ID": "8"} if inside else {})}.items():
        monkeypatch.setenv(name, value)
    slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    lines = (slurm.folder / "sbatch.env").read_text().splitlines()
    assert {f"{name}={value}" for name, value in users.items()} <= set(lines)
    assert any(f"{name}={value}" in lines for name, value in own.items()) != inside
    assert "SLURM_JOB_ID=8" not in lines and os.environ.get("SLURM_JOB_ID") == ("8" if inside else None)
    assert os.environ["SLURM_ARRAY_JOB_ID"] == "7"


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"cluster": "debug"}, '"slurm", or "local"'),
        ({"cluster": 3}, '"slurm", or "local"'),
        ({"slurm_max_num_timeout": "x"}, "slurm_max_num_timeout: must be a whole number, got 'x'"),
        ({"slurm_signal_delay_s": True}, "slurm_signal_delay_s: must be a whole number"),
        ({"slurm_nosuch": 1}, "submitit does not accept this: .*nosuch"),
        ({"timeout_min": "2"}, "submitit does not accept this: .*timeout_min"),
        ({"name": "mine"}, "submitit does not accept this: .*name"),
    ],
)
def test_parameters_that_do_not_fit(slurm, tmp_path, parameters, message):
    with pytest.raises(SweepError, match=message):
        slurm.launcher(tmp_path / "sweep", **parameters)


def test_the_checkpoint_has_most_of_the_time_after_the_signal(slurm, tmp_path):
    launcher = slurm.launcher(tmp_path / "sweep", slurm_signal_delay_s=200)
    job = launcher.start(TRAINING, 0).job
    assert (
        100 < job.submission().function.patience < 200 and "--signal=USR2@200" in job.paths.submission_file.read_text()
    )


# ending


@pytest.mark.parametrize(
    "state", ["PENDING", "RUNNING", "COMPLETING", "REQUEUED", "SUSPENDED", "CONFIGURING", "REQUEUE_HOLD", "STOPPED"]
)
@pytest.mark.parametrize("result", [True, False])
def test_a_job_that_is_not_over_is_waited_for(slurm, tmp_path, state, result):
    """Whatever result it left before SLURM put it back into the queue."""
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    if result:
        leave_result(launched, "error", "Traceback")
    slurm.has(state)
    assert launched.poll() is None and launched.poll() is None


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", ""])
def test_a_finished_run_needs_no_word_of_slurm(slurm, tmp_path, state):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    if state:
        slurm.has(state)
    else:
        slurm.refuses("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    pretend_finished(TRAINING, tmp_path / "sweep")
    assert launched.poll() is None  # the job has yet to end
    leave_result(launched, "success", 0)
    assert launched.poll() == Outcome("exit code 0")


@pytest.mark.parametrize(
    ("state", "taken_back"),
    [
        ("PREEMPTED", True),
        ("NODE_FAIL", True),
        ("BOOT_FAIL", True),
        ("REVOKED", True),
        ("CANCELLED", False),
        ("TIMEOUT", False),
        ("FAILED", False),
        ("OUT_OF_MEMORY", False),
        ("DEADLINE", False),
    ],
)
def test_a_job_without_a_result_ends_as_slurm_says(slurm, tmp_path, state, taken_back):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has(state)
    outcome = launched.poll()
    log = f", see {tmp_path}/sweep/submitit/1_0_log.err" if state == "FAILED" else ""
    assert outcome == Outcome(f"job 1 ended as {state}{log}", taken_back=taken_back)


@pytest.mark.parametrize(
    ("exit_code", "taken_back"),
    [("36608", True), ("143:0", True), ("256", False), ("1:0", False), ("9", False), ("-", False)],
)
def test_a_job_that_ended_itself_at_sigterm_was_taken_back(slurm, tmp_path, exit_code, taken_back):
    """As where preemption grants a time of grace. Two ways in which SLURM's versions write 143, 1 and a signal."""
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has("FAILED", "NonZeroExitCode", exit_code=exit_code)
    outcome = launched.poll()
    assert outcome.how.startswith("job 1 ended as FAILED") and outcome.taken_back == taken_back
    slurm.has("RUNNING", job=2)  # and when only the accounting knows of it
    slurm.answers("sacct", f"echo '     FAILED     {exit_code} '")
    assert launched.poll() == outcome


@pytest.mark.parametrize(
    ("state", "code", "expected"),
    [
        ("COMPLETED", 0, Outcome("exit code 0")),
        ("COMPLETED", 1, Outcome("exit code 1")),
        ("COMPLETED", 75, Outcome("exit code 75", busy=True)),
        ("COMPLETED", -9, Outcome("killed by signal 9")),  # too little memory, say
        ("COMPLETED", -15, Outcome("killed by signal 15", taken_back=True)),
        ("COMPLETED", 143, Outcome("exit code 143", taken_back=True)),
        ("COMPLETED", 140, Outcome("exit code 140", taken_back=True)),
        ("NODE_FAIL", -9, Outcome("killed by signal 9", taken_back=True)),
    ],
)
def test_a_result_tells_how_the_training_ended(slurm, tmp_path, monkeypatch, state, code, expected):
    if code == 0:  # which is waited for
        monkeypatch.setattr(cluster_launcher, "_RESULT_TIME", 0.0)
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    leave_result(launched, "success", code)
    slurm.has(state)
    assert launched.poll() == expected


def test_an_error_on_the_machine_is_its_last_line(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    leave_result(launched, "error", "Traceback\n  File\nOSError: no\x1b such file\n")
    slurm.has("FAILED")
    assert launched.poll() == Outcome("job 1 of the cluster: OSError: no\\x1b such file")


def test_a_result_that_a_network_file_system_shows_late(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has("COMPLETED")
    assert launched.poll() is None
    leave_result(launched, "success", 75)
    assert launched.poll().busy


def test_files_of_a_finished_training_that_a_network_file_system_shows_after_its_result(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has("COMPLETED")
    leave_result(launched, "success", 0)
    assert launched.poll() is None
    pretend_finished(TRAINING, tmp_path / "sweep")
    assert launched.poll() == Outcome("exit code 0")


def test_a_result_that_never_comes(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_launcher, "_RESULT_TIME", 0.0)
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has("COMPLETED")
    assert launched.poll().how.startswith("job 1 ended as COMPLETED, see ")


@pytest.mark.parametrize(
    ("accounting", "how"),
    [
        ("echo ' CANCELLED by 0   0:15 '", "ended as CANCELLED"),
        ("echo RUNNING 0:0", "is no longer known to SLURM"),
        ("exit 1", "is no longer known to SLURM"),
        ("", "is no longer known to SLURM"),
    ],
)
def test_a_job_that_slurm_has_forgotten(slurm, tmp_path, accounting, how):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has("RUNNING", job=2)
    slurm.answers("sacct", accounting)
    assert how in launched.poll().how


def test_slurm_that_does_not_answer_is_waited_for_and_told_once(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.refuses("squeue", "slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    leave_result(launched, "success", 1)
    assert [launched.poll() for _ in range(3)] == [None] * 3
    assert len(slurm.said) == 1 and "(slurm_load_jobs error: Unable to contact slurm controller" in slurm.said[0]
    slurm.has("COMPLETED")
    assert launched.poll() == Outcome("exit code 1")
    assert slurm.said[1:] == ["SLURM tells of its jobs again"]


def test_an_answer_from_before_the_submission_tells_nothing(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_queue, "LOOK_EVERY", 1e6)
    launcher = slurm.launcher(tmp_path / "sweep")
    launcher.queue.state("9", since=0.0)
    launched = launcher.start(TRAINING, 0)
    assert launched.poll() is None and len(slurm.calls("squeue")) == 1


def test_one_call_for_all_jobs_and_not_at_every_poll(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(slurm_queue, "LOOK_EVERY", 1e6)
    launcher = slurm.launcher(tmp_path / "sweep")
    jobs = [launcher.start(TRAINING, 0) for _ in range(3)]
    slurm.answers("squeue", 'for job in 1 2 3; do echo "$job RUNNING 0 None"; done')
    for _ in range(5):
        for job in jobs:
            job.poll()
    [call] = slurm.calls("squeue")
    assert "--states=all" in call and f"--user={os.getuid()}" in call
    assert not slurm.calls("sacct")


def test_the_users_settings_of_squeue_do_not_hide_jobs(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("SQUEUE_PARTITION", "other")
    slurm.launcher(tmp_path / "sweep").start(TRAINING, 0).poll()
    assert "SQUEUE_" not in (slurm.folder / "squeue.env").read_text()


def test_a_held_job_is_told_once(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    for reason in ("Priority", "launch failed requeued held", "JobHeldUser"):
        slurm.has("PENDING", reason)
        assert launched.poll() is None
    assert slurm.said == [f"held     {TRAINING.name}: launch failed requeued held; it starts after: scontrol release 1"]


# stopping, and the next command


def test_all_jobs_are_cancelled_by_one_command(slurm, tmp_path):
    launcher = slurm.launcher(tmp_path / "sweep")
    jobs = [launcher.start(TRAINING, 0) for _ in range(3)]
    for job in jobs:
        job.ask_to_stop()
    assert not slurm.calls("scancel")
    for job in jobs:
        job.stop()
    assert slurm.calls("scancel") == ["scancel 1 2 3"] and slurm.said == []


def test_jobs_that_cannot_be_cancelled_are_told(slurm, tmp_path):
    launched = slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.refuses("scancel", "scancel: error: Unable to contact slurm controller")
    launched.ask_to_stop()
    launched.stop()
    [line] = slurm.said
    assert "Unable to contact slurm controller" in line and line.endswith("end them with: scancel 1")


@pytest.mark.parametrize(
    ("state", "left"), [("PENDING", "pending"), ("RUNNING", "running"), ("COMPLETING", "completing"), ("FAILED", None)]
)
def test_the_next_command_knows_the_jobs_of_the_last(slurm, tmp_path, state, left):
    slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.has(state)
    found = slurm.launcher(tmp_path / "sweep").left_behind(TRAINING)
    assert found == (left and f"job 1 of an earlier command is {left}")


def test_a_run_without_a_job_asks_slurm_nothing(slurm, tmp_path):
    assert slurm.launcher(tmp_path / "sweep").left_behind(TRAINING) is None and not slurm.calls("squeue")


def test_nothing_is_started_while_it_is_unknown_whether_a_job_waits(slurm, tmp_path):
    slurm.launcher(tmp_path / "sweep").start(TRAINING, 0)
    slurm.refuses("squeue", "slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(StartRefusedError, match="whether job 1 of .* is not known") as refused:
        slurm.launcher(tmp_path / "sweep").left_behind(TRAINING)
    assert refused.value.passing


def test_submitits_local_executor(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_launcher, "command_of", lambda *_: ["sh", "-c", "exit 75"])
    TRAINING.write(tmp_path / "sweep")
    launcher = ClusterLauncher(tmp_path / "sweep", Machine("cpu"), {"cluster": "local", "timeout_min": 5}, print)
    assert launcher.left_behind(TRAINING) is None
    launched = launcher.start(TRAINING, 0)
    while (outcome := launched.poll()) is None:
        time.sleep(0.05)
    assert outcome == Outcome("exit code 75", busy=True) and isinstance(
        launched.job.submission().function.training, Training
    )
