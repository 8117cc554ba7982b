"""What happens on a cluster's machine when the machine is taken back. Signals are real, SLURM is not there."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from pathlib import Path

import pytest
from sweep_cases import TRAINING

from nnunetv2_mamba.benchmark import cluster_job
from nnunetv2_mamba.benchmark.cluster_job import FRUITLESS, TrainingJob, ended_by_signal

pytest.importorskip("submitit", reason="the extra slurm is not installed")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

# Warns the job, as SLURM does, then needs a moment for its checkpoint
WARNED = """
import os, signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.3)
    Path(sys.argv[1], "checkpoint").touch()
    sys.exit(140)
signal.signal(signal.SIGUSR2, save)
os.kill(os.getppid(), signal.SIGUSR2)
time.sleep(600)
"""
DEAF = "import os, signal, time\nsignal.signal(12, lambda *_: 0)\nos.kill(os.getppid(), 12)\ntime.sleep(600)"


@pytest.fixture(autouse=True)
def handlers(monkeypatch):
    monkeypatch.setattr(cluster_job, "_SIGNALS_APART", 0.1)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGTERM, lambda *_: None)  # as submitit's, which logs it
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def job(folder: Path, command: list[str], patience: float = 60.0) -> TrainingJob:
    return TrainingJob(TRAINING, folder, command, {"MARK": "set"}, patience)


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", code, *map(str, arguments)]


def measure(folder: Path, epochs: int) -> None:
    TRAINING.folder(folder).mkdir(parents=True, exist_ok=True)
    (TRAINING.folder(folder) / "cost_partial.json").write_text(
        json.dumps({"epochs": {str(e): {} for e in range(epochs)}})
    )


@pytest.mark.parametrize("code", [0, 1, 75])
def test_an_exit_code_is_the_result(tmp_path, code):
    assert job(tmp_path, ["sh", "-c", f"echo $MARK; exit {code}"])() == code
    assert TRAINING.log(tmp_path).read_text() == "set\n"


@pytest.mark.parametrize(("ending", "code"), [("kill -TERM $$", -15), ("kill -KILL $$", -9), ("exit 143", 143)])
def test_a_signal_to_the_training_alone_is_a_result(tmp_path, ending, code):
    assert job(tmp_path, ["sh", "-c", ending])() == code


@pytest.mark.parametrize("ending", ["kill -TERM $$", "kill -KILL $$", "exit 143"])
def test_there_is_no_result_where_the_cluster_takes_the_machine(tmp_path, ending):
    with pytest.raises(SystemExit) as end:
        job(tmp_path, ["sh", "-c", f"kill -TERM $PPID; {ending}"])()
    assert end.value.code == 143


def test_a_training_that_finishes_all_the_same_has_no_result_either(tmp_path):
    """What became of it is in its files, and the cluster may start the job again."""
    with pytest.raises(SystemExit):
        job(tmp_path, ["sh", "-c", "kill -TERM $PPID; exit 0"])()


def on_warning(training: TrainingJob, kept: list) -> None:
    """As submitit: in the handler, in the main thread; then the process ends."""

    def handle(*_: object) -> None:
        kept.append(training.checkpoint())
        sys.exit(-1)

    signal.signal(signal.SIGUSR2, handle)


def test_the_time_limit_waits_for_the_checkpoint_and_asks_for_the_same_again(tmp_path):
    kept: list = []
    training = job(tmp_path, python(WARNED, tmp_path))
    on_warning(training, kept)
    with pytest.raises(SystemExit) as end:
        training()
    assert end.value.code == -1 and (tmp_path / "checkpoint").exists()
    [again] = kept
    assert again.function == TrainingJob(TRAINING, tmp_path, training.command, {"MARK": "set"}, 60.0, fruitless=1)
    assert not again.args and pickle.loads(pickle.dumps(again.function)) == again.function


def test_a_training_that_does_not_stop_is_left_to_the_cluster(tmp_path):
    kept: list = []
    training = job(tmp_path, python(DEAF), patience=0.2)
    on_warning(training, kept)
    with pytest.raises(SystemExit):
        training()
    assert kept[0] is not None
    assert training._process.wait() == -signal.SIGTERM


def test_requeued_as_long_as_it_gets_further(tmp_path):
    training, epochs = job(tmp_path, ["true"]), 0
    for more in (1, 0, 1, *[0] * FRUITLESS):
        measure(tmp_path, epochs)
        assert training() == 0
        measure(tmp_path, epochs := epochs + more)
        again = training.checkpoint()
        training = again and again.function
    assert training is None


def test_warned_before_it_began(tmp_path):
    assert job(tmp_path, ["true"]).checkpoint().function.fruitless == 0


@pytest.mark.parametrize(
    ("code", "ended"),
    [(-15, True), (143, True), (-12, True), (140, True), (-9, True), (137, True), (0, False), (1, False), (75, False)],
)
def test_codes_of_signals(code, ended):
    assert ended_by_signal(code) == ended
