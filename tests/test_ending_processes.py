"""A verb that is ended ends what it started: the command, its workers, and the workers of its own pools."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nnunetv2_mamba
from nnunetv2_mamba import processes
from nnunetv2_mamba.cli import main

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
    pytest.mark.usefixtures("signals_not_ignored"),
]
SOURCES = str(Path(nnunetv2_mamba.__file__).parents[1])

# A training with two workers: "save" writes a checkpoint on SIGTERM, "deaf" lets one worker ignore SIGTERM.
TRAINING = """
import os, signal, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def save(*_):
    time.sleep(0.2)
    (folder / "checkpoint").touch()
    sys.exit(128 + signal.SIGTERM)
for number in range(2):
    if os.fork() == 0:
        if number and "deaf" in sys.argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (folder / f"worker{number}.pid").write_text(str(os.getpid()))
        time.sleep(600)
        os._exit(0)
signal.signal(signal.SIGTERM, save if "save" in sys.argv else signal.SIG_IGN)
while len(list(folder.glob("worker*.pid"))) < 2:
    time.sleep(0.01)
(folder / "trainer.pid").write_text(str(os.getpid()))
if "die" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(600)
"""

# A verb of the command that trains.
VERB = """
import sys
from nnunetv2_mamba import cli, processes
class Verb:
    HELP, EXAMPLES = "", ()
    add_arguments = staticmethod(lambda parser: parser.add_argument("words", nargs="*"))
    @staticmethod
    def run(args):
        return processes.run_and_end_with_us([sys.executable, "-S", *args.words])
cli.VERBS = {"train": Verb}
sys.exit(cli.main())
"""


def wait_for(condition, seconds: float = 60) -> None:
    latest = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < latest, "waited in vain"
        time.sleep(0.02)


def runs(pid: int) -> bool:
    """Whether the process is there and no zombie, whose parent has not asked for its exit code yet."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


def started(folder: Path) -> list[int]:
    wait_for((folder / "trainer.pid").exists)
    wait_for(lambda: all(file.read_text() for file in folder.glob("*.pid")))
    return [int(file.read_text()) for file in folder.glob("*.pid")]


def verb(folder: Path, *words: str) -> subprocess.Popen:
    script = folder / "training.py"
    script.write_text(TRAINING)
    return subprocess.Popen(
        [sys.executable, "-c", VERB, "train", "--", str(script), str(folder), *words],
        env=os.environ | {"PYTHONPATH": SOURCES},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR2"])
def test_a_signal_ends_the_training_and_its_workers(name, tmp_path):
    process = verb(tmp_path, "save")
    pids = started(tmp_path)
    assert len(pids) == 3
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.Signals[name]
    assert err == ("interrupted\n" if name == "SIGINT" else f"ended by {name}\n")  # and no traceback
    assert (tmp_path / "checkpoint").exists()
    wait_for(lambda: not any(map(runs, pids)), 10)


def test_a_second_signal_waits_for_no_checkpoint(tmp_path):
    process = verb(tmp_path)  # does not end on SIGTERM
    pids = started(tmp_path)
    process.terminate()
    time.sleep(0.5)
    assert process.poll() is None and any(map(runs, pids))
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "Traceback" not in err
    wait_for(lambda: not any(map(runs, pids)), 10)


def test_a_training_that_dies_leaves_no_workers(tmp_path):
    process = verb(tmp_path, "die")
    pids = started(tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 256 - signal.SIGKILL
    wait_for(lambda: not any(map(runs, pids)), 10)


def test_a_training_that_does_not_end_is_killed(tmp_path):
    (tmp_path / "training.py").write_text(TRAINING)
    command = [sys.executable, "-S", str(tmp_path / "training.py"), str(tmp_path), "deaf"]
    process = processes.start_group(command)
    pids = started(tmp_path)
    processes.end_group(process, patience=0.2)
    assert process.returncode == -signal.SIGKILL
    wait_for(lambda: not any(map(runs, pids)), 10)


def test_an_ignored_signal_stays_ignored_and_handlers_are_put_back(monkeypatch):
    """``nohup`` sets SIGHUP so; a caller of ``main`` keeps its own handlers."""
    own = lambda *_: None  # noqa: E731
    before = {signal.SIGHUP: signal.SIG_IGN, signal.SIGUSR1: own, signal.SIGTERM: signal.SIG_DFL}
    old = {number: signal.signal(number, handler) for number, handler in before.items()}
    within = {}
    try:
        with processes.signals_raise():
            within.update({number: signal.getsignal(number) for number in before})
        after = {number: signal.getsignal(number) for number in before}
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    assert after == before
    assert within[signal.SIGHUP] == signal.SIG_IGN and within[signal.SIGUSR1] is own
    assert callable(within[signal.SIGTERM])


# A pool at work, of which only the parent gets the signal; it would wait for its workers' ten minutes.
POOL = """
import os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from nnunetv2_mamba import cli

def work(folder):
    Path(folder, f"{os.getpid()}.pid").write_text(str(os.getpid()))
    time.sleep(600)

class Verb:
    HELP, EXAMPLES = "", ()
    add_arguments = staticmethod(lambda parser: parser.add_argument("words", nargs="*"))
    @staticmethod
    def run(args):
        kind, method, folder = args.words
        context = get_context(method)
        if kind == "executor":
            with ProcessPoolExecutor(2, mp_context=context) as pool:
                return list(pool.map(work, [folder] * 4))
        with context.Pool(2) as pool:
            return pool.map(work, [folder] * 4)

if __name__ == "__main__":
    cli.VERBS = {"work": Verb}
    sys.exit(cli.main())
"""


@pytest.mark.parametrize("kind", ["executor", "pool"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_pools_end_too(kind, method, name, tmp_path):
    (tmp_path / "verb.py").write_text(POOL)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "verb.py"), "work", kind, method, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": SOURCES},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: sum(bool(file.read_text()) for file in tmp_path.glob("*.pid")) == 2)
    pids = [int(file.read_text()) for file in tmp_path.glob("*.pid")]
    process.send_signal(signal.Signals[name])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.Signals[name]
    assert "Traceback" not in err, err
    wait_for(lambda: not any(map(runs, pids)), 10)


def test_a_signal_during_a_verb_of_this_process(monkeypatch, capsys):
    monkeypatch.setattr("nnunetv2_mamba.commands.doctor.run", lambda args: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["doctor"]) == 143
    assert capsys.readouterr().err == "ended by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_without_process_groups_the_command_and_its_children_end_at_once(monkeypatch, tmp_path):
    """As on Windows, with a program that stands in for its taskkill."""
    taskkill = tmp_path / "taskkill"
    taskkill.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nkill -9 -- "-$4"\n')
    taskkill.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delattr(os, "killpg")
    process = processes.start_group([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    processes.end_group(process, patience=60)
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "asked").read_text().split() == ["/T", "/F", "/PID", str(process.pid)]
    processes.end_group(process)  # one that has ended is left alone
