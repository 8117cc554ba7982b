"""Which run is started when, and what happens when one dies. Processes are faked."""

import errno
import io
import json
import os
from contextlib import contextmanager
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console
from sweep_cases import TRAINING, hold, pretend_finished

from nnunetv2_mamba.benchmark import scheduler as module
from nnunetv2_mamba.benchmark import scores
from nnunetv2_mamba.benchmark.display import EventLines, LiveTable, progress_table
from nnunetv2_mamba.benchmark.job import BUSY
from nnunetv2_mamba.benchmark.launcher import Outcome, StartRefusedError, outcome_of
from nnunetv2_mamba.benchmark.lock import lock
from nnunetv2_mamba.benchmark.scheduler import Scheduler
from nnunetv2_mamba.benchmark.training import Training

TRAININGS = tuple(replace(TRAINING, fold=fold) for fold in range(4))


class FakeLauncher:
    """Ends every run at the second look with the next of its exit codes or outcomes; 0 leaves a finished run."""

    def __init__(self, folder, slots=1, codes=None, refusals=(), left=()):
        self.folder, self.slots, self.codes = folder, slots, codes or {}
        self.refusals, self.left = list(refusals), list(left)
        self.launched, self.asked, self.stopped, self.under_way, self.most = [], [], [], 0, 0
        self.interrupted = self.independent = False

    def left_behind(self, training):
        return self.left.pop(0) if self.left else None

    def start(self, training, slot):
        refusal = self.refusals.pop(0) if self.refusals else None
        if refusal is not None:
            raise refusal
        self.launched.append(training.fold)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        return FakeProcess(self, training)


class FakeProcess:
    def __init__(self, launcher, training):
        self.launcher, self.training, self.looks, self.independent = launcher, training, 0, launcher.independent

    def poll(self):
        self.looks += 1
        if self.looks < 2:
            return None
        self.launcher.under_way -= 1
        codes = self.launcher.codes.get(self.training.fold, [])
        code = codes.pop(0) if codes else 0
        if isinstance(code, BaseException):
            raise code
        if code == 0:
            pretend_finished(self.training, self.launcher.folder)
        return code if isinstance(code, Outcome) else outcome_of(code)

    def ask_to_stop(self):
        self.launcher.asked.append(self.training.fold)
        if self.launcher.interrupted:
            raise OSError("not even asked")

    def stop(self):
        self.launcher.stopped.append((self.training.fold, len(self.launcher.asked)))
        if self.launcher.interrupted:
            raise KeyboardInterrupt


def execute(folder, launcher, trainings=TRAININGS, previous=None):
    log = io.StringIO()
    scheduler = Scheduler(folder, launcher, EventLines(log), previous or {}, pause=0)
    return scheduler.execute(trainings), log.getvalue(), scheduler


@pytest.mark.parametrize("slots", [1, 2, None])
def test_side_by_side(tmp_path, slots):
    launcher = FakeLauncher(tmp_path, slots)
    failed, _, _ = execute(tmp_path, launcher)
    assert failed == [] and launcher.launched == [0, 1, 2, 3] and launcher.most == (slots or 4)


def test_finished_runs_are_not_started(tmp_path):
    for training in TRAININGS[:3]:
        pretend_finished(training, tmp_path)
    launcher = FakeLauncher(tmp_path)
    execute(tmp_path, launcher)
    assert launcher.launched == [3]


@pytest.mark.parametrize("slots", [1, 2, None])
def test_a_cascades_second_model_waits_for_every_fold_of_its_first(tmp_path, slots):
    """Which leaves the segmentations that it trains with. What needs none goes ahead."""
    second, *first, other = TRAININGS
    launcher = FakeLauncher(tmp_path, slots, codes={2: [-9]})
    failed, _, _ = execute(tmp_path, launcher, previous={second.name: tuple(each.name for each in first)})
    assert failed == [] and sorted(launcher.launched) == [0, 1, 2, 2, 3] and launcher.launched[-1] == 0


def test_a_cascades_second_model_is_given_up_with_its_first(tmp_path):
    second, *first, other = TRAININGS
    launcher = FakeLauncher(tmp_path, 2, codes={1: [-9, -9]})
    failed, log, _ = execute(tmp_path, launcher, previous={second.name: tuple(each.name for each in first)})
    assert failed == [second, first[0]] and 0 not in launcher.launched and other.finished(tmp_path)
    assert f"failed   {second.name}, giving up: it needs the segmentations of {first[0].name}" in log


def test_a_killed_run_is_tried_once_more(tmp_path):
    launcher = FakeLauncher(tmp_path, codes={1: [-9]})
    failed, log, _ = execute(tmp_path, launcher)
    assert failed == [] and sorted(launcher.launched) == [0, 1, 1, 2, 3]
    assert "fold_1__seed_0 (killed by signal 9), trying again" in log and str(TRAININGS[1].log(tmp_path)) in log


def test_the_others_go_on_when_one_fails_twice(tmp_path):
    launcher = FakeLauncher(tmp_path, codes={1: [-9, 1]})
    failed, log, scheduler = execute(tmp_path, launcher)
    assert failed == [TRAININGS[1]] and sorted(launcher.launched) == [0, 1, 1, 2, 3]
    assert "(exit code 1), giving up" in log
    assert scheduler.states[TRAININGS[1].name] == "failed" and scheduler.states[TRAININGS[3].name] == "finished"


def test_a_run_that_gets_further_every_time_is_never_given_up(tmp_path, monkeypatch):
    epochs = iter([0, 1, 2, 3, 4, 4])  # at the start and after each of five failures
    monkeypatch.setattr(Training, "epochs_done", lambda *_: next(epochs))
    launcher = FakeLauncher(tmp_path, codes={0: [-9, -9, -9, -9, -9, -9]})
    failed, _, _ = execute(tmp_path, launcher, TRAININGS[:1])
    assert failed == [TRAININGS[0]] and len(launcher.launched) == 5


def test_exit_code_0_without_results_is_a_failure(tmp_path, monkeypatch):
    monkeypatch.setattr("test_scheduler.pretend_finished", lambda *_: None)
    failed, _, _ = execute(tmp_path, FakeLauncher(tmp_path), TRAININGS[:1])
    assert failed == [TRAININGS[0]]


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_of_another_sweep_is_waited_for_without_starting_it(tmp_path, monkeypatch, finished):
    """Until the other process has finished it, or has died."""
    monkeypatch.setattr(module, "_BUSY_PAUSE", 0.0)
    looks = []

    @contextmanager
    def looked_at(file):
        looks.append(file)
        if len(looks) == 5:
            if finished:
                pretend_finished(TRAININGS[0], tmp_path)
            other.stdin.close()
            other.wait()
        with lock(file) as free:
            yield free

    monkeypatch.setattr(module, "lock", looked_at)
    launcher = FakeLauncher(tmp_path, codes={0: [BUSY]})
    with hold(TRAININGS[0].lock(tmp_path)) as other:
        failed, log, _ = execute(tmp_path, launcher, TRAININGS[:1])
    assert failed == [] and len(looks) == 5
    assert launcher.launched.count(0) == log.count("starts   " + TRAININGS[0].name) == (1 if finished else 2)
    assert log.count("elsewhere") == 1 and log.count("finished " + TRAININGS[0].name) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX locks; Windows's are in test_other_systems.py")
def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with (
        pytest.raises(OSError, match="cannot be locked; name a folder with -o") as error,
        lock(TRAINING.lock(tmp_path)),
    ):
        pytest.fail("took it")
    assert error.value.errno == errno.ENOLCK and str(TRAINING.lock(tmp_path)) in str(error.value)


@pytest.mark.parametrize("interrupted", [False, True])
def test_running_processes_are_stopped_when_the_sweep_is(tmp_path, interrupted):
    """All are asked before the first is waited for, and all are ended, whatever interrupts the asking or waiting."""
    launcher = FakeLauncher(tmp_path, slots=2, codes={0: [KeyboardInterrupt()]})
    launcher.interrupted = interrupted
    with pytest.raises(KeyboardInterrupt):
        execute(tmp_path, launcher)
    assert sorted(fold for fold, _ in launcher.stopped) == [0, 1]
    assert interrupted or {asked for _, asked in launcher.stopped} == {2}


@pytest.mark.parametrize("independent", [True, False])
def test_an_error_of_the_sweep_ends_only_what_cannot_go_on_alone(tmp_path, independent):
    launcher = FakeLauncher(tmp_path, slots=2, codes={0: [OSError("no space left")]})
    launcher.independent = independent
    with pytest.raises(OSError, match="no space left"):
        execute(tmp_path, launcher)
    assert len(launcher.stopped) == (0 if independent else 2)


def test_a_machine_that_is_taken_back_is_no_failure(tmp_path):
    taken = Outcome("job 7 ended as PREEMPTED", taken_back=True)
    launcher = FakeLauncher(tmp_path, codes={0: [taken, -9, taken, taken]})
    failed, log, _ = execute(tmp_path, launcher, TRAININGS[:1])
    assert failed == [] and launcher.launched == [0] * 5
    assert log.count("(job 7 ended as PREEMPTED), trying again") == 3


def test_machines_are_not_taken_back_for_ever(tmp_path):
    taken = Outcome("job 7 ended as NODE_FAIL", taken_back=True)
    launcher = FakeLauncher(tmp_path, codes={0: [taken] * 100})
    failed, log, _ = execute(tmp_path, launcher, TRAININGS[:1])
    assert failed == [TRAININGS[0]] and len(launcher.launched) == module.TAKEN_BACK and "giving up" in log


def test_an_epoch_more_between_failures_forgets_them(tmp_path, monkeypatch):
    epochs = iter([0, 0, 1, 1, 1])  # at the start and after: failed, taken back an epoch later, failed, failed
    monkeypatch.setattr(Training, "epochs_done", lambda *_: next(epochs))
    taken = Outcome("job 7 ended as PREEMPTED", taken_back=True)
    launcher = FakeLauncher(tmp_path, codes={0: [-9, taken, -9, -9]})
    assert execute(tmp_path, launcher, TRAININGS[:1])[0] == [TRAININGS[0]] and len(launcher.launched) == 4


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0))


@pytest.mark.parametrize("under_way", [True, False])
def test_a_start_that_may_be_possible_later_is_tried_again(tmp_path, no_pauses, under_way):
    """It is said once, costs no attempt, and what runs goes on."""
    refusals = [None] * under_way + [StartRefusedError("SLURM is busy", passing=True)] * 5
    launcher = FakeLauncher(tmp_path, slots=None, refusals=refusals)
    failed, log, _ = execute(tmp_path, launcher, TRAININGS[:2])
    assert failed == [] and launcher.launched == [0, 1] and launcher.stopped == []
    assert log.count("delayed  SLURM is busy; trying again") == 1 and log.count("starts") == 2


def test_a_start_that_cannot_be_possible_ends_the_sweep_when_nothing_runs_any_more(tmp_path, no_pauses):
    never = StartRefusedError("no such partition", passing=False)
    launcher = FakeLauncher(tmp_path, slots=None, refusals=[None, *[never] * 99])
    with pytest.raises(StartRefusedError, match="no such partition"):
        execute(tmp_path, launcher, TRAININGS[:3])
    assert launcher.launched == [0] and TRAININGS[0].finished(tmp_path) and launcher.stopped == []

    with pytest.raises(StartRefusedError, match="no such partition"):
        execute(tmp_path, FakeLauncher(tmp_path, refusals=[never]), TRAININGS[1:])


def test_the_pause_between_starts_grows_to_a_bound():
    pause, seconds = module._Pause(), []
    for _ in range(9):
        pause.begin()
        seconds.append(pause.seconds)
    assert seconds == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_a_refused_start_waits_for_its_pause_or_the_end_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAUSES", (1e6, 1e6))
    launcher = FakeLauncher(tmp_path, slots=None, refusals=[None, StartRefusedError("full", passing=True)])
    assert execute(tmp_path, launcher, TRAININGS[:2])[0] == [] and launcher.launched == [0, 1]


def test_what_an_earlier_command_left_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BUSY_PAUSE", 0.0)
    launcher = FakeLauncher(tmp_path, left=["job 7 of an earlier command is pending"] * 3)
    failed, log, _ = execute(tmp_path, launcher, TRAININGS[:1])
    assert failed == [] and launcher.launched == [0] and launcher.left == []
    assert log.count(f"elsewhere {TRAININGS[0].name}: job 7 of an earlier command is pending; waiting for it") == 1


def models_as_table(trainings, folder):
    return scores.table_of_models(trainings, scores.scores(trainings, folder), folder)


def test_tables(tmp_path):
    several = (*TRAININGS, *(replace(training, trainer="nnUNetTrainerSegMamba") for training in TRAININGS))
    for training, dice in zip(several[:6], (0.1, 0.2, 0.3, 0.4, 0.8, 0.9), strict=True):
        pretend_finished(training, tmp_path, dice)
    states = {training.name: "finished" for training in several[:6]} | {
        several[6].name: "running",
        several[7].name: "failed",
    }
    console = Console(file=io.StringIO(), width=100)
    console.print(progress_table(several, states, tmp_path))
    assert [line.split() for line in console.file.getvalue().splitlines()] == [
        ["fold", "0", "1", "2", "3"],
        ["nnUNetTrainerSegMamba", "done", "done", "0/?", "FAILED"],
        ["nnUNetTrainer", "done", "done", "done", "done"],
    ]
    # the standard deviation of 0.1, 0.2, 0.3 and 0.4; then of three seeds, and of folds with 0.82 (their mean) and 0.9,
    # whose mean is 0.86: fold 0 does not count three times
    assert "| nnUNetTrainer | 4 | 0.2500 | unknown | 0.1291 | 1.0 M | 1.0 | 36.0 | 1.00 GiB |" in models_as_table(
        several, tmp_path
    )
    seeds = [replace(several[4], seed=seed) for seed in (1, 2)]
    for training, dice in zip(seeds, (0.82, 0.84), strict=True):
        pretend_finished(training, tmp_path, dice)
    found = models_as_table([*several, *seeds], tmp_path)
    assert "| nnUNetTrainerSegMamba | 4 | 0.8600 | 0.0200 | 0.0566 | 1.0 M" in found
    written = pd.read_csv(scores.write_scores(scores.scores(several, tmp_path), tmp_path))
    assert len(written) == 12 and set(written["label"]) == {"1", "foreground mean"}
    assert written["dice"].tolist() == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.8, 0.8, 0.9, 0.9]


def test_the_mean_of_a_model_is_not_that_of_some_folds(tmp_path):
    """nnU-Net's mean of a fold is NaN where none of its cases has a label."""
    for training, dice in zip(TRAININGS[:3], (0.8, 0.9, float("nan")), strict=True):
        pretend_finished(training, tmp_path, dice)
    assert "| nnUNetTrainer | 3 | unknown | unknown | unknown | 1.0 M" in models_as_table(TRAININGS[:3], tmp_path)


def test_the_memory_of_a_model_is_the_gpus_where_there_is_one(tmp_path):
    pretend_finished(TRAININGS[0], tmp_path)
    file = TRAININGS[0].folder(tmp_path) / "cost.json"
    peaks = {"allocated_bytes": 3 * 2**30, "reserved_bytes": 4 * 2**30, "process_bytes": 2**30}
    file.write_text(json.dumps(json.loads(file.read_text()) | {"peak_memory": peaks}))
    assert models_as_table(TRAININGS[:1], tmp_path).endswith("| 36.0 | 3.00 GiB |")


def test_what_was_not_measured_is_unknown(tmp_path):
    for training in TRAININGS[:2]:
        pretend_finished(training, tmp_path)
        file = training.folder(tmp_path) / "cost.json"
        kept = {"parameters": 10**6, "flops": None, "seconds_per_epoch": None}
        file.write_text(json.dumps(kept if training.fold else kept | {"peak_memory": {"process_bytes": None}}))
    assert "| nnUNetTrainer | 2 | 0.5000 | unknown | 0.0000 | 1.0 M | unknown | unknown | unknown |" in models_as_table(
        TRAININGS, tmp_path
    )


def live_table(folder, height=25):
    console = Console(file=io.StringIO(), width=100, height=height, force_terminal=True, color_system=None)
    return LiveTable(TRAININGS, folder, console), console.file


def test_the_live_table_is_printed_over_itself_below_the_events(tmp_path):
    table, stream = live_table(tmp_path)
    with table:
        table.update({training.name: "waiting" for training in TRAININGS})
        table.event("starts   [fold_0]")
        table.update({training.name: "finished" for training in TRAININGS})
        lines = stream.getvalue().splitlines()[-3:]
        assert lines[0].endswith("4 finished") and lines[1].split() == ["fold", "0", "1", "2", "3"]
        assert lines[2].split() == ["nnUNetTrainer", "done", "done", "done", "done"]
    first, event, last = (stream.getvalue().index(text) for text in ("4 waiting", "starts   [fold_0]", "4 finished"))
    assert first < event < last and "\x1b[1A" in stream.getvalue()[:event]  # the table before goes away
    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor is back


def test_the_live_table_is_not_drawn_more_often_than_it_can_be_read(tmp_path, monkeypatch):
    now = 0.0  # seconds
    monkeypatch.setattr("nnunetv2_mamba.benchmark.display.time.monotonic", lambda: now)
    table, _ = live_table(tmp_path)
    drawn = []
    monkeypatch.setattr(table.live, "update", lambda *_, refresh: drawn.append(refresh))
    for now in (0.0, 1.0, 2.5):  # noqa: B007  (the clock reads it)
        table.update({training.name: "running" for training in TRAININGS})
    assert len(drawn) == 2
    table.update({training.name: "finished" for training in TRAININGS})  # the end is always shown
    assert len(drawn) == 3
