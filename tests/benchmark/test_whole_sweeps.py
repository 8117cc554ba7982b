"""Real sweeps on the tiny data set, by the command itself."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_cases import GROUPS, pretend_finished, write_sweep
from tiny_dataset import DATASET_ID, NAME, TinyDataset

from nnunetv2_mamba.benchmark import duration
from nnunetv2_mamba.benchmark.checks import _planning, trainer_class
from nnunetv2_mamba.benchmark.sweep import Machine, Sweep, find_file, read_sweep
from nnunetv2_mamba.benchmark.training import Budget, Training

# Augmentation in the process (of the tiny data set's environment) and one thread: then the scores are reproducible.
SWEEP = f"""
datasets = [{DATASET_ID}]
folds = [0]
[budget]
epochs = 4
iterations = 2
validation_iterations = 1
batch_size = 2
mirroring = false
[machine]
device = "cpu"
threads = 1
{GROUPS}
"""


def start(file: Path, folder: Path, *more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "nnunetv2_mamba", "benchmark", str(file), "-o", str(folder), *more],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a process group to kill
    )


def run(file: Path, folder: Path, *more: str, returncode: int = 0) -> str:
    process = start(file, folder, *more)
    output, _ = process.communicate()
    logs = "".join(log.read_text()[-3000:] for log in folder.glob("logs/*.txt"))
    assert process.returncode == returncode, output + logs
    return output


def kill_when(process: subprocess.Popen, reached) -> None:
    """Kill the sweep and its training, which leads a process group of its own."""
    while not reached():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGSTOP)  # so that it starts nothing more
    trainings = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    for group in (*map(int, trainings.split()), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_twice_it_ends_with_the_same_results(tiny_dataset: TinyDataset, tmp_path):
    file = write_sweep(tmp_path, SWEEP)
    run(file, tmp_path / "whole")

    folder = tmp_path / "killed"
    stock, ours = (
        Training("Dataset901_Tiny", "3d_fullres", plans, trainer, 0, 0)
        for trainer, plans in (("nnUNetTrainer", "nnUNetPlans"), ("nnUNetTrainerSegMamba", "tinySegMambaPlans"))
    )
    kill_when(start(file, folder), lambda: stock.epochs_done(folder) >= 2)
    kill_when(start(file, folder), lambda: ours.epochs_done(folder) >= 2)
    assert stock.finished(folder) and not ours.finished(folder)
    output = run(file, folder)
    assert f"starts   {ours.name}" in output and stock.name not in output

    comparison = "comparison/Dataset901_Tiny__3d_fullres"
    for table in ("results.csv", f"{comparison}/values.csv"):
        assert (folder / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    assert (folder / comparison / "report.html").is_file()
    for one in (stock, ours):
        log = one.log(folder).read_text()
        assert log.count("$ nnUNetv2_train") == 2 and "--c" in log
        assert re.findall(r"Epoch (\d+) *$", log, re.M).count("0") == 1  # continued, not begun again
        cost = json.loads((one.folder(folder) / "cost.json").read_text())
        assert cost["epochs"] == 4 and cost["batch_size"] == 2 and cost["seconds_per_epoch"] > 0
        assert cost["flops"] > 0 and cost["peak_memory"]["process_bytes"] > 2**20
        assert (one.folder(folder) / "validation" / "evaluation.csv").is_file()
        assert len(json.loads((one.folder(folder) / "cost_partial.json").read_text())["epochs"]) == 4
    assert not list(folder.rglob(".partial-*"))

    again = run(file, folder)
    assert "starts" not in again
    assert "2 runs, 2 finished; about 0.0 CPU hours left" in run(file, folder, "--dry-run")


@pytest.mark.slow
def test_sigterm_ends_the_training_with_its_workers_after_a_checkpoint(tiny_dataset: TinyDataset, tmp_path):
    stock, ours = GROUPS.split("[[group]]")[1:]
    text = SWEEP.replace(stock, ours, 1).split("[[group]]")
    text = "[[group]]".join(text[:2]).replace("epochs = 4", "epochs = 1000")
    folder = tmp_path / "sweep"
    process = start(
        write_sweep(tmp_path, text.replace("[machine]", "[machine]\nenvironment = {nnUNet_n_proc_DA = 1}")), folder
    )
    [training] = [Training("Dataset901_Tiny", "3d_fullres", "tinySegMambaPlans", "nnUNetTrainerSegMamba", 0, 0)]
    while training.epochs_done(folder) < 1:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.1)
    process.terminate()
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    everything = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(folder) not in everything
    assert "SIGTERM: wrote checkpoint_latest.pth" in training.log(folder).read_text()


@pytest.mark.slow
def test_on_a_cluster(tiny_dataset: TinyDataset, tmp_path):
    pytest.importorskip("submitit", reason="the extra slurm is not installed")
    one = SWEEP.split('[[group]]\ntrainers = ["nnUNetTrainerSegMamba"]')[0]
    file = write_sweep(tmp_path, one + '[slurm]\ncluster = "local"\ntimeout_min = 30\n')
    output = run(file, tmp_path / "sweep")
    assert "finished Dataset901_Tiny__nnUNetTrainer__nnUNetPlans__3d_fullres__fold_0__seed_0" in output
    assert list((tmp_path / "sweep" / "submitit").glob("*_submission.sh")) or list(
        (tmp_path / "sweep" / "submitit").glob("*_submitted.pkl")
    )


@pytest.mark.slow
def test_a_run_that_fails_is_reported(tiny_dataset: TinyDataset, tmp_path):
    broken = (
        '[machine]\nenvironment = { NNUNETV2_MAMBA_SCAN = "none_of_them" }'  # which nnU-Net's trainer does not read
    )
    output = run(write_sweep(tmp_path, SWEEP.replace("[machine]", broken)), tmp_path / "sweep", returncode=1)
    assert "nnUNetTrainerSegMamba__tinySegMambaPlans" in output and "giving up" in output
    assert "1 of 2 runs failed" in output and "| nnUNetTrainer | 1 |" in output


def test_dry_run_tells_the_runs(tiny_dataset: TinyDataset, tmp_path, capsys):
    from nnunetv2_mamba.cli import main

    file = write_sweep(tmp_path, SWEEP + "seconds_per_epoch = 900\n")
    assert main(["benchmark", str(file), "-o", str(tmp_path / "sweep"), "--dry-run"]) == 0
    stock, ours, total, note = capsys.readouterr().out.splitlines()
    assert stock.startswith("Dataset901_Tiny__nnUNetTrainer__") and stock.endswith("(rough, from FLOPs)")
    assert ours.endswith("1.00 h (declared)")
    assert total.startswith("2 runs, 0 finished; about 1.0 CPU hours left") and "flops_per_second" in note
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("trainer", "settings", "iterations"),
    [
        ("nnUNetTrainerUMamba2", {}, 250),
        ("nnUNetTrainerUMamba2Paper", {}, 500),
        ("nnUNetTrainerUMamba2Paper", {"batches_per_step": 3, "num_iterations_per_epoch": 10}, 30),
    ],
)
def test_an_epoch_has_the_batches_of_all_its_steps(tiny_dataset: TinyDataset, trainer, settings, iterations):
    training = Training(NAME, "3d_fullres", "tinyUMamba2Plans", trainer, 0, 0, Budget(), settings)
    assert duration._epoch_flops(training, forward=1) == 2 * (3 * iterations + 50)


@pytest.mark.parametrize(
    ("configuration", "settings", "patches"),
    [
        ("3d_fullres", {}, 27 * (3 * 0.8 + 0.2) * 6),
        ("2d", {"patches_per_axis": 2}, 4 * (3 * 0.8 + 0.2) * 6),
        ("3d_fullres", {"num_iterations_per_epoch": 5, "num_val_iterations_per_epoch": 2}, 27 * (3 * 5 + 2)),
    ],
)
def test_an_epoch_of_scans_has_the_patches_of_their_grid(tiny_dataset: TinyDataset, configuration, settings, patches):
    """Of the six scans here all, where nothing is said, four fifths of them for training."""
    trainer = "nnUNetTrainerMedSegMambaPaper"
    training = Training(NAME, configuration, "tinyMedSegMambaPlans", trainer, 0, 0, Budget(), settings)
    assert duration._epoch_flops(training, forward=1) == pytest.approx(patches)


def write_epochs(training: Training, sweep: Path, number: int) -> None:
    """What a training that has measured so many epochs leaves."""
    training.folder(sweep).mkdir(parents=True, exist_ok=True)
    content = {"epochs": {str(epoch): {"seconds": 36.0} for epoch in range(number)}}
    (training.folder(sweep) / "cost_partial.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("trainer", "budget", "machine", "seconds"),
    [
        # 2 of 3 epochs are left, of 10 training iterations (forward pass and twice as much) and 4 of validation, of 5
        # patches of 1e9 operations; 1e11 a second and thread
        ("nnUNetTrainer", Budget(3, 10, 4, 5), Machine("cpu", threads=2), 2 * 5e9 * (3 * 10 + 4) / 2e11),
        ("nnUNetTrainer", Budget(3, 10, 4, 5), Machine("cpu"), 2 * 5e9 * (3 * 10 + 4) / 1e11),
        ("nnUNetTrainer", Budget(3, 10, 4, 5), Machine(threads=2), 2 * 5e9 * (3 * 10 + 4) / 1e13),
        ("nnUNetTrainer", Budget(3, 10, 4, 5), Machine("mps"), 2 * 5e9 * (3 * 10 + 4) / 1e12),
        ("nnUNetTrainer", Budget(3, 10, 4, 5), Machine(flops_per_second=1e9), 2 * 5 * (3 * 10 + 4)),
        # without a budget nnU-Net's numbers, and the plan's batch of 2
        ("nnUNetTrainer", Budget(), Machine(), 999 * 2e9 * (3 * 250 + 50) / 1e13),
        ("nnUNetTrainer_250epochs", Budget(), Machine(), 249 * 2e9 * (3 * 250 + 50) / 1e13),
        ("nnUNetTrainer_1epoch", Budget(), Machine(), 0),
        ("nnUNetTrainer_250epochs", Budget(3), Machine(), 2 * 2e9 * (3 * 250 + 50) / 1e13),
    ],
)
def test_rough_estimates(tiny_dataset: TinyDataset, tmp_path, monkeypatch, trainer, budget, machine, seconds):
    monkeypatch.setattr(duration, "forward_flops", lambda *_: 1_000_000_000)
    training = Training(NAME, "3d_fullres", "nnUNetPlans", trainer, 0, 0, budget)
    write_epochs(training, tmp_path, 1)
    found = duration.estimate(Sweep(Path("a.toml"), (training,), machine, {}, None), tmp_path)[training.name]
    assert found.seconds == pytest.approx(seconds) and found.source == "rough, from FLOPs"


def test_an_estimate_is_the_median_of_what_was_measured_and_never_negative(tiny_dataset: TinyDataset, tmp_path):
    trainings = [Training(NAME, "3d_fullres", "nnUNetPlans", "nnUNetTrainer", fold, 0, Budget(10)) for fold in range(5)]
    for training, seconds in zip(trainings, (1.0, 2.0, 9.0), strict=False):
        pretend_finished(training, tmp_path)
        cost = {"device": "it", "device_type": "cuda", "seconds_per_epoch": seconds}
        (training.folder(tmp_path) / "cost.json").write_text(json.dumps(cost))
    write_epochs(trainings[3], tmp_path, 4)
    write_epochs(trainings[4], tmp_path, 12)  # of a longer budget
    found = duration.estimate(Sweep(Path("a.toml"), tuple(trainings), Machine(), {}, None), tmp_path)
    assert [estimate.seconds for estimate in found.values()] == [6 * 2.0, 0]


@pytest.mark.parametrize(
    ("machine", "slurm", "said"),
    [
        (Machine(), None, "about 1.5 GPU hours left for training, 1 at a time"),
        (Machine("mps", jobs=3), None, "about 1.5 GPU hours left for training, 3 at a time"),
        (Machine("cpu"), {}, "about 1.5 CPU hours left for training, all at a time"),
    ],
)
def test_hours_are_those_of_the_device(tmp_path, machine, slurm, said):
    training = Training(NAME, "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 0, 0, Budget(10))
    sweep = Sweep(Path("a.toml"), (training,), machine, {training.name: 540.0}, slurm)
    assert said in duration.describe(sweep, tmp_path)[-1]


def test_dry_run_counts_what_is_left_by_what_was_measured_alike(tiny_dataset: TinyDataset, tmp_path, capsys):
    from nnunetv2_mamba.cli import main

    text = SWEEP.split('[[group]]\ntrainers = ["nnUNetTrainerSegMamba"]')[0].replace("epochs = 4", "epochs = 1000")
    file, sweep = write_sweep(tmp_path, text.replace("folds = [0]", "folds = [0, 1, 2, 3, 4]")), tmp_path / "sweep"
    trainings = [
        Training("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", fold, 0) for fold in range(5)
    ]
    measured = (("cpu", 1, 36.0), ("cpu", 8, 3.6), ("cuda", 1, 0.36))
    for training, (device, threads, seconds) in zip(trainings[:3], measured, strict=True):
        pretend_finished(training, sweep)
        cost = {"device": f"the {device}", "device_type": device, "threads": threads, "seconds_per_epoch": seconds}
        (training.folder(sweep) / "cost.json").write_text(json.dumps(cost))
    write_epochs(trainings[3], sweep, 900)
    assert main(["benchmark", str(file), "-o", str(sweep), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].endswith("  1.00 h (measured on the cpu)") and lines[4].endswith("  10.00 h (measured on the cpu)")
    assert "3 finished; about 11.0 CPU hours left" in lines[5]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba_generations.toml", "scan_orders.toml"])
def test_dry_run_of_a_ready_made_ablation(name, tiny_dataset: TinyDataset, tmp_path, capsys):
    """Of every training, with small networks in plans of the names that the file has."""
    from nnunetv2_mamba.cli import main

    trainings = read_sweep(find_file(name), [DATASET_ID]).trainings
    pairs = {(training.trainer, training.plans) for training in trainings}
    for trainer, plans in pairs:
        network_class = getattr(trainer_class(trainer), "network_class", None)
        small = "nnUNetPlans" if network_class is None else f"tiny{network_class.__name__}Plans"
        tiny_dataset.write_plans(plans, tiny_dataset.plans(small))
    try:
        assert main(["benchmark", name, "-d", str(DATASET_ID), "-o", str(tmp_path / "sweep"), "--dry-run"]) == 0
    finally:
        for _, plans in pairs:
            (tiny_dataset.preprocessed / NAME / f"{plans}.json").unlink(missing_ok=True)
    output = capsys.readouterr().out
    assert f"{len(pairs) * 15} runs, 0 finished" in output and "unknown" not in output


def test_dry_run_of_a_network_that_cannot_be_traced(tiny_dataset: TinyDataset, tmp_path, capsys, monkeypatch):
    from test_measured_training import LooksAtItsInput

    from nnunetv2_mamba.cli import main
    from nnunetv2_mamba.trainers import nnUNetTrainerSegMamba

    monkeypatch.setattr(nnUNetTrainerSegMamba, "build_network_architecture", lambda *_: LooksAtItsInput())
    # a finished run, whose training measured nothing, is no measure for the others
    pretend_finished(
        Training("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 1, 0), tmp_path / "sweep"
    )
    [cost] = tmp_path.rglob("cost.json")
    cost.write_text(json.dumps({"flops": None, "seconds_per_epoch": None}))
    file = write_sweep(tmp_path, SWEEP.replace("folds = [0]", "folds = [0, 1]"))
    assert main(["benchmark", str(file), "-o", str(tmp_path / "sweep"), "--dry-run"]) == 0
    stock, finished, ours, _, total, _ = capsys.readouterr().out.splitlines()
    assert stock.endswith("(rough, from FLOPs)") and finished.endswith("finished")
    assert "  unknown (its FLOPs cannot be counted: DataDependentOutputException" in ours
    assert "2 runs of unknown length" in total


def test_plans_of_a_sweep_run_no_code(tiny_dataset: TinyDataset, tmp_path, capsys, monkeypatch):
    from nnunetv2_mamba.benchmark import checks
    from nnunetv2_mamba.cli import main

    called = []
    monkeypatch.setattr("torch.hub.load", lambda *args, **kwargs: called.append(args))
    hostile = tiny_dataset.plans("nnUNetPlans")
    hostile["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "torch.hub.load"
    tiny_dataset.write_plans("nnUNetHostilePlans", hostile)
    checks._read_plans.cache_clear()
    text = SWEEP.replace("nnUNetPlans", "nnUNetHostilePlans")
    assert main(["benchmark", str(write_sweep(tmp_path, text)), "-o", str(tmp_path / "sweep"), "--dry-run"]) == 1
    (tiny_dataset.preprocessed / NAME / "nnUNetHostilePlans.json").unlink()
    assert "nnUNetHostilePlans.json: " in (error := capsys.readouterr().err)
    assert "'torch.hub.load', which is not taken from a file" in error
    assert not called


def test_many_runs_read_their_plans_once(tiny_dataset: TinyDataset, tmp_path, capsys, monkeypatch):
    from nnunetv2_mamba.benchmark import checks, duration
    from nnunetv2_mamba.cli import main

    read, traced = [], []
    plans_manager, forward_flops = checks.PlansManager, duration.forward_flops
    monkeypatch.setattr(checks, "PlansManager", lambda plans: read.append(plans) or plans_manager(plans))
    monkeypatch.setattr(duration, "forward_flops", lambda *arguments: traced.append(1) or forward_flops(*arguments))
    checks._read_plans.cache_clear()
    text = SWEEP.split('[[group]]\ntrainers = ["nnUNetTrainerSegMamba"]')[0]
    text = text.replace("folds = [0]", f"folds = [0, 1, 2, 3, 4]\nseeds = {list(range(400))}")
    assert main(["benchmark", str(write_sweep(tmp_path, text)), "-o", str(tmp_path / "sweep"), "--dry-run"]) == 0
    assert "2000 runs, 0 finished" in capsys.readouterr().out
    assert len(read) == len(traced) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nnUNetTrainerSegMamba", "nnUNetTrainerSegMmaba", "no trainer nnUNetTrainerSegMmaba; .*nnUNetTrainerSegMamba"),
        ("tinySegMambaPlans", "nnUNetSegMambaPlans", "nnunetv2_mamba plan -d 901 --network SegMamba$"),
        ('"nnUNetPlans"', '"nnUNetResEncUNetMPlans"', "nnUNetv2_plan_and_preprocess -d 901 -pl nnUNetPlannerResEncM"),
        (f"[{DATASET_ID}]", f'[{DATASET_ID}, "Dataset901_Tiny"]', "a data set stands there by two names"),
        (f"[{DATASET_ID}]", "[902]", "0 data sets 902 .*Dataset901_Tiny"),
        ("folds = [0]", "folds = [5]", "has 5 folds, counted from 0; there is no 5"),
        ("folds = [0]", 'folds = [0]\nconfigurations = ["3d_lowres"]', "has no 3d_lowres; it has 2d, 3d_fullres"),
        (
            "[machine]",
            "[settings]\ngradient_klip = 1\n[machine]",
            "settings of nnUNetTrainerSegMamba: .*klip;",
        ),
        ("[machine]", "[settings]\nmomentum = 7\n[machine]", "settings of .*: momentum must be"),
        ('"nnUNetPlans"', '"splits_final"', "splits_final.json holds no JSON object"),
        ('"nnUNetPlans"', '"dataset"', "dataset.json: 'configurations' is no JSON object"),
    ],
)
def test_what_is_not_there_is_told_at_once(tiny_dataset: TinyDataset, tmp_path, capsys, old, new, message):
    from nnunetv2_mamba.cli import main

    (tiny_dataset.preprocessed / "Dataset901_Tiny" / "splits_final.json").write_text(json.dumps([{}] * 5))
    try:
        file = write_sweep(tmp_path, SWEEP.replace(old, new))
        assert main(["benchmark", str(file), "-o", str(tmp_path / "sweep")]) == 1
    finally:
        (tiny_dataset.preprocessed / "Dataset901_Tiny" / "splits_final.json").unlink()
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert str(file) in error or "nnU-Net finds no trainer" in error


@pytest.mark.parametrize("changed", ["patch_size", "transpose_forward", None])
def test_models_that_were_planned_again_since_are_not_continued(tiny_dataset: TinyDataset, tmp_path, capsys, changed):
    from nnunetv2_mamba.cli import main

    file, sweep = (
        write_sweep(tmp_path, SWEEP.split('[[group]]\ntrainers = ["nnUNetTrainerSegMamba"]')[0]),
        tmp_path / "s",
    )
    training = Training(
        "Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 0, 0, Budget(4, 2, 1, 2, False)
    )
    training.write(sweep)
    pretend_finished(training, sweep)
    plans = json.loads((tiny_dataset.preprocessed / "Dataset901_Tiny" / "nnUNetPlans.json").read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] = 2  # as the budget says
    plans["configurations"]["2d"]["patch_size"] = [8, 8]  # not this model's
    if changed == "patch_size":
        plans["configurations"]["3d_fullres"]["patch_size"] = [8, 8, 8]
    elif changed == "transpose_forward":
        plans["transpose_forward"] = [2, 1, 0]
    copy = training.folder(sweep).parent / "plans.json"
    copy.write_text(json.dumps(plans))
    command = ["benchmark", str(file), "-o", str(sweep)]
    if changed is None:
        assert main([*command, "--dry-run"]) == 0
        return
    for options in ([], ["--dry-run"]):
        assert main([*command, *options]) == 1
        message = f"{copy}: nnUNetPlans of Dataset901_Tiny was another when this was trained ({changed});"
        assert message in capsys.readouterr().err
        assert not (sweep / file.name).exists()


def test_data_that_are_not_preprocessed_are_told_at_once(tiny_dataset: TinyDataset, tmp_path, capsys):
    from nnunetv2_mamba.cli import main

    data = tiny_dataset.preprocessed / "Dataset901_Tiny" / "nnUNetPlans_3d_fullres"
    data.rename(tmp_path / "away")
    try:
        assert main(["benchmark", str(write_sweep(tmp_path, SWEEP)), "-o", str(tmp_path / "sweep")]) == 1
    finally:
        (tmp_path / "away").rename(data)
    error = capsys.readouterr().err
    assert f"{data} is not there; preprocess it with nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans" in error


@pytest.mark.parametrize(
    ("plans", "command"),
    [
        ("nnUNetPlans", "nnUNetv2_plan_and_preprocess -d 4"),
        ("nnUNetSegMambaPlans", "--network SegMamba"),
        ("nnUNetUMamba224GPlans", "--network UMamba2 --gpu-memory 24"),
        ("nnUNetSegMambaAsResEncUNetMPlans", "--network SegMamba --match nnUNetResEncUNetMPlans"),
        (
            "nnUNetUMambaBotScanHilbertAsDefaultPlans",
            "--network UMambaBot --match nnUNetPlans --option KEY=VALUE, with what ScanHilbert stands for",
        ),
        (
            "nnUNetSegMambaDState8_7.5GPlans",
            "--network SegMamba --gpu-memory 7.5 --option KEY=VALUE, with what DState8 stands for",
        ),
        ("MyPlans", "nnUNetv2_plan_and_preprocess -d 4 -pl PLANNER, with the planner that writes MyPlans"),
    ],
)
def test_the_command_that_makes_plans_of_a_name(plans, command):
    assert _planning(plans, 4).removeprefix("nnunetv2_mamba plan -d 4 ") == command
