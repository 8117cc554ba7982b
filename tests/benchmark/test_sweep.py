"""The TOML file of a sweep."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_cases import TRAINING, write_sweep

from nnunetv2_mamba.architectures.blocks.scan_paths import SCANS
from nnunetv2_mamba.architectures.registry import MAMBA2, NETWORKS
from nnunetv2_mamba.benchmark.checks import trainer_class
from nnunetv2_mamba.benchmark.sweep import SweepError, find_file, read_sweep, ready_made
from nnunetv2_mamba.benchmark.training import Budget
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.planning.network_options import name_of_options

GROUP = '[[group]]\ntrainers = ["nnUNetTrainer"]\nplans = ["nnUNetPlans"]\n'
FULL = """
datasets = [4]
folds = [0, 1]
seeds = [0, 7]
[budget]
epochs = 5
iterations = 13
batch_size = 2
mirroring = false
[settings]
initial_lr = 1e-3
[machine]
device = "cpu"
threads = 1
environment = { nnUNet_n_proc_DA = 0 }
[[group]]
trainers = ["nnUNetTrainer"]
plans = ["nnUNetPlans", "nnUNetResEncUNetMPlans"]
[[group]]
trainers = ["nnUNetTrainerSegMamba", "nnUNetTrainerSegMambaNoMamba"]
plans = ["nnUNetSegMambaPlans"]
folds = [0]
settings = { optimizer = "adamw" }
seconds_per_epoch = 12
[[exclude]]
plans = "nnUNetResEncUNetMPlans"
fold = 1
"""


def test_groups_are_multiplied_out(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, FULL))
    found = [(training.trainer, training.plans, training.fold, training.seed) for training in sweep.trainings]
    stock = [("nnUNetTrainer", "nnUNetPlans", fold, seed) for fold in (0, 1) for seed in (0, 7)]
    residual = [("nnUNetTrainer", "nnUNetResEncUNetMPlans", 0, seed) for seed in (0, 7)]
    ours = [
        (f"nnUNetTrainerSegMamba{twin}", "nnUNetSegMambaPlans", 0, seed) for twin in ("", "NoMamba") for seed in (0, 7)
    ]
    assert sorted(found) == sorted(stock + residual + ours)
    assert {training.budget for training in sweep.trainings} == {Budget(5, 13, None, 2, False)}
    assert sweep.machine.environment == {"nnUNet_n_proc_DA": "0"}
    for training in sweep.trainings:
        if training.plans == "nnUNetSegMambaPlans":
            assert (
                training.settings == {"initial_lr": 1e-3, "optimizer": "adamw"} and sweep.declared[training.name] == 12
            )
        else:
            assert training.settings == {"initial_lr": 1e-3} and training.name not in sweep.declared


def test_data_sets_of_the_command_line_replace_those_of_the_file(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path, FULL), [5, "Dataset006_Lung"])
    assert {training.dataset for training in sweep.trainings} == {"5", "Dataset006_Lung"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datasets = [4", "is not TOML"),
        ("datasets = [4]", r"group: there is no \[\[group\]\]"),
        ("datasets = [4]\nfold = [0]\n" + GROUP, "top level: unknown key fold; there are datasets"),
        ("datasets = [4]\n[budget]\nepoch = 5\n" + GROUP, r"\[budget\]: unknown key epoch; there are epochs"),
        ("datasets = [4]\n[budget]\nepochs = 0\n" + GROUP, r"\[budget\] epochs: must be a whole number"),
        ("datasets = [4]\n[budget]\nmirroring = 1\n" + GROUP, r"mirroring: must be true or false"),
        (
            "datasets = [4]\n[budget]\nschedule = 'step'\n" + GROUP,
            r"schedule: must be 'epoch' or 'iteration', got 'step'",
        ),
        ("datasets = [4]\nfolds = 0\n" + GROUP, r"\[\[group\]\] 1 folds: must be a list of numbers or names"),
        ("datasets = [4]\nfolds = ['five']\n" + GROUP, "folds are numbers from 0 or 'all'"),
        ("datasets = [4]\nfolds = [-1]\n" + GROUP, "folds are numbers from 0 or 'all'"),
        ("datasets = [4]\nseeds = [-1]\n" + GROUP, "seeds are numbers from 0 to 4294967295"),
        ("datasets = [4]\nfolds = [0, 'all']\n" + GROUP, "'all' trains on the other folds' validation cases"),
        ("datasets = [4]\nslurm = 3\n" + GROUP, r"\[slurm\]: must be a table"),
        ("datasets = [4]\nseeds = [1, 1]\n" + GROUP, "has something twice"),
        ("datasets = [4]\nseeds = [true]\n" + GROUP, "must be a list of numbers"),
        (GROUP, "datasets: no data set; .* -d ID"),
        ("datasets = [4]\n[[group]]\nplans = ['nnUNetPlans']\n", "trainers: must be a list of names"),
        ("datasets = [4]\n" + GROUP + GROUP, "stands in the file twice"),
        ("datasets = [4]\n" + GROUP + "epochs = 5\n", r"\[\[group\]\] 1: unknown key epochs"),
        ("datasets = [4]\n[group]\n", r"write \[\[group\]\] with two brackets"),
        ("datasets = [4]\n[[exclude]]\nfold = 9\n" + GROUP, r"\[\[exclude\]\] 1: matches no run"),
        ("datasets = [4]\n[[exclude]]\nseed = 0\n" + GROUP, "leaves no run"),
        ("datasets = [4]\n[machine]\ndevice = 'gpu'\n" + GROUP, "device: must be one of cuda, cpu, mps"),
        ("datasets = [4]\n[machine]\njobs = 'two'\n" + GROUP, r"\[machine\] jobs: must be a whole number"),
        ("datasets = [4]\n[machine]\nenvironment = {nnUNet_results = 'x'}\n" + GROUP, "is set by the sweep"),
        (
            "datasets = [4]\n[budget]\nepochs = 5\n[settings]\nnum_epochs = 9\n" + GROUP,
            r"settings num_epochs: is set in \[budget\]",
        ),
        ("datasets = [4]\nsettings = 3\n" + GROUP, "settings: must be a table"),
        ("datasets = [4]\n" + GROUP + "seconds_per_epoch = -1\n", "must be a number above 0"),
        ("datasets = [4]\n" + GROUP + f"seconds_per_epoch = {10**400}\n", "must be a number above 0"),
        ("datasets = [4]\n" + GROUP + "seconds_per_epoch = inf\n", "must be a number above 0"),
        (
            "datasets = [4]\n" + GROUP.replace("plans", "plan"),
            r"unknown key plan; there are .* \(do you mean plans\?\)",
        ),
        ("datasets = [4]\n[budget]\nepochs = 99999999999999999999\n" + GROUP, "at least 1 and at most 1000000"),
        ("datasets = [4]\n[machine]\nthreads = 99999999999\n" + GROUP, r"threads: .* at most 1000000"),
        ("datasets = [4]\nseeds = [4294967296]\n" + GROUP, "seeds are numbers from 0 to 4294967295"),
        ("datasets = [4]\n[settings]\ninitial_lr = nan\n" + GROUP, "initial_lr: must be a number, a text"),
        (f"datasets = [4]\n[settings]\ninitial_lr = 1{'0' * 400}\n" + GROUP, "initial_lr: must be a number, a text"),
        ("datasets = [4]\n[settings]\nstart = 2026-01-01\n" + GROUP, "start: must be a number, a text"),
        ("datasets = ['../Dataset004_X']\n" + GROUP, r"datasets: '\.\./Dataset004_X' is no name; .* not a path"),
        ("datasets = [4]\nconfigurations = ['../x']\n" + GROUP, r"configurations: '\.\./x' is no name"),
        ("datasets = [4]\n" + GROUP.replace('["nnUNetPlans', '["a/nnUNetPlans'), "plans: 'a/nnUNetPlans' is no name"),
        ("datasets = [4]\n" + GROUP.replace('["nnUNetPlans', '["..'), r"plans: '\.\.' is no name"),
        ("datasets = [4]\n" + GROUP.replace('["nnUNetTr', '["=nnUNetTr'), "trainers: '=nnUNetTrainer' is no name"),
        ("datasets = [4]\n" + GROUP.replace("nnUNetTrainer", "a\\\\b"), "trainers: .* is no name"),
        ("datasets = [4]\n" + GROUP.replace("nnUNetTrainer", "\\u001b[31m"), "trainers: .* is no name"),
        ("datasets = [4]\n" + GROUP.replace('"nnUNetTrainer"', '""'), "trainers: '' is no name"),
        (f"datasets = [4]\nfolds = [0, 1, 2]\nseeds = {list(range(50_000))}\n" + GROUP, "makes more than 100000 runs"),
        ("datasets = " + "[" * 3000 + "]" * 3000, "is not TOML: its brackets are nested too deep"),
        ("datasets = [" + "9" * 5000 + "]\n" + GROUP, "is not TOML: .*digits"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, message):
    file = write_sweep(tmp_path, text)
    with pytest.raises(SweepError, match=message) as error:
        read_sweep(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"), [(b"a = \x80", "utf-8"), (b" " * (1 << 20) + b"\n", "bytes, more than")]
)
def test_what_is_no_text_or_too_long_is_named(tmp_path, content, message):
    (tmp_path / "sweep.toml").write_bytes(content)
    with pytest.raises(SweepError, match=f"sweep.toml is not TOML: .*{message}"):
        read_sweep(tmp_path / "sweep.toml")


def test_many_seeds_are_multiplied_out_and_some_taken_out(tmp_path):
    """In a moment: nothing is quadratic in the number of runs."""
    text = f"datasets = [4]\nseeds = {list(range(2000))}\n{GROUP}[[exclude]]\nfold = 4\n"
    assert len(read_sweep(write_sweep(tmp_path, text)).trainings) == 8000


def test_the_examples_of_the_documentation(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "benchmarking.md").read_text(encoding="utf-8")
    example, slurm = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    sweep = read_sweep(write_sweep(tmp_path, example + slurm))
    assert len(sweep.trainings) == 3 and sweep.slurm["timeout_min"] == 2880 and sweep.machine.gpus == (0, 1)


def test_ready_made_files(capsys):
    ready = ["mamba_generations.toml", "mamba_vs_nnunet.toml", "medsegmamba_paper.toml", "scan_orders.toml"]
    assert list(ready_made()) == ready
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    assert f"one that is ready: {', '.join(ready)}" in " ".join(capsys.readouterr().out.split())
    trainings = read_sweep(find_file("mamba_vs_nnunet.toml"), [4]).trainings
    assert {training.fold for training in trainings} == {0, 1, 2, 3, 4}
    trainers = {training.trainer for training in trainings}
    for network in ("SegMamba", "MedSegMamba", "MSDKMamba", "UMambaBot", "UMambaEnc", "UMamba2"):
        assert {f"nnUNetTrainer{network}{twin}" for twin in ("", "NoMamba", "Conv")} <= trainers
    assert {f"nnUNetTrainer{name}" for name, network in NETWORKS.items() if network.page == "monai"} <= trainers
    stock = {training.plans for training in trainings if training.trainer == "nnUNetTrainer"}
    assert stock == {"nnUNetPlans", "nnUNetResEncUNetMPlans", "nnUNetResEncUNetLPlans"}
    with pytest.raises(FileNotFoundError, match="no ready-made one of this name: mamba_generations"):
        find_file("mamba_vs_unet.toml")


@pytest.mark.parametrize("name", ["mamba_generations.toml", "mamba_vs_nnunet.toml"])
def test_networks_and_nnunets_own_step_the_learning_rate_alike(name):
    trainings = read_sweep(find_file(name), [4]).trainings
    assert "nnUNetTrainer" in {training.trainer for training in trainings}
    assert {training.budget.schedule for training in trainings} == {"iteration"}


@pytest.mark.parametrize("name", ["mamba_generations.toml", "scan_orders.toml"])
def test_ready_made_ablations_name_what_there_is(name):
    """Trainers that nnU-Net finds, and plans that are called so by the commands at the top."""
    commands = re.findall(r"--network (\w+) --option (\w+)=(\w+)", find_file(name).read_text(encoding="utf-8"))
    for trainer, plans in {
        (training.trainer, training.plans) for training in read_sweep(find_file(name), [4]).trainings
    }:
        if trainer == "nnUNetTrainer":
            continue
        network = trainer_class(trainer).network_name
        variants = {
            name_of_options({option: scan})
            for planned, option, value in commands
            if planned in ("NAME", network)
            for scan in (SCANS if value == "ORDER" else [value])
        }
        assert plans.removeprefix(f"nnUNet{network}").removesuffix("Plans") in {"", *variants}


def test_the_ablation_of_scan_orders_has_them_all():
    trainings = read_sweep(find_file("scan_orders.toml"), [4]).trainings
    for network in ("SegMamba", "MedSegMamba"):
        plans = {training.plans for training in trainings if training.trainer == f"nnUNetTrainer{network}"}
        assert plans == {f"nnUNet{network}{name_of_options({'scan': scan})}Plans" for scan in SCANS}


def test_the_ablation_of_generations_has_every_mixer_of_every_network():
    trainings = read_sweep(find_file("mamba_generations.toml"), [4]).trainings
    trainers = {training.trainer for training in trainings}
    with_mamba = {name for name, network in NETWORKS.items() if MAMBA2.keys() <= network.variants.keys()}
    assert "UMambaEnc" in with_mamba
    for network in with_mamba:
        assert {f"nnUNetTrainer{network}{mixer}" for mixer in ("", "NoMamba", "Conv", "Mamba2")} <= trainers
    plans = {training.plans for training in trainings if training.trainer == "nnUNetTrainerUMamba2"}
    assert plans == {"nnUNetUMamba2Plans", "nnUNetUMamba2MixerMambaPlans"}
    assert {"nnUNetTrainerUMamba2NoMamba", "nnUNetTrainerUMamba2Conv"} <= trainers


def test_a_file_beside_the_data_sets_is_none_of_them(tmp_path, monkeypatch):
    from nnunetv2_mamba.benchmark.checks import _dataset

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / "Dataset004_Hippocampus").mkdir()
    (tmp_path / "Dataset004_Hippocampus.zip").touch()
    assert _dataset(Path("sweep.toml"), "4") == "Dataset004_Hippocampus"


@pytest.fixture
def cascade(tiny_dataset):
    """Plans with a cascade, and two folds."""
    plans = tiny_dataset.plans("nnUNetPlans")
    plans["configurations"] |= {
        "3d_lowres": plans["configurations"]["3d_fullres"],
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"},
    }
    for name in ("cascadePlans", "otherCascadePlans"):
        tiny_dataset.write_plans(name, plans)
    splits = tiny_dataset.preprocessed / "Dataset901_Tiny" / "splits_final.json"
    before = splits.read_bytes() if splits.exists() else None
    splits.write_text(json.dumps([{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]))
    yield
    splits.unlink() if before is None else splits.write_bytes(before)


def test_of_a_cascade_the_second_model_needs_all_folds_of_the_first(cascade, tmp_path):
    """With the same plans, trainer and seed."""
    from nnunetv2_mamba.benchmark.checks import resolve
    from nnunetv2_mamba.benchmark.duration import describe

    text = 'datasets = [901]\nconfigurations = ["3d_cascade_fullres", "3d_lowres"]\nfolds = [0, 1]\nseeds = [0, 1]\n'
    group = '[[group]]\ntrainers = ["nnUNetTrainer", "nnUNetTrainer_5epochs"]\n'
    group += 'plans = ["cascadePlans", "otherCascadePlans"]\nseconds_per_epoch = 1\n'
    sweep = resolve(read_sweep(write_sweep(tmp_path, text + group)))
    trainings = {training.name: training for training in sweep.trainings}
    assert len(trainings) == 32 and len(sweep.previous) == 16
    for name, needed in sweep.previous.items():
        assert trainings[name].configuration == "3d_cascade_fullres"
        lowres = replace(trainings[name], configuration="3d_lowres")
        assert needed == tuple(replace(lowres, fold=fold).name for fold in (0, 1))
    lines = [line for line in describe(sweep, tmp_path) if "__fold_" in line]
    assert [line for line in lines if line.endswith(", after 3d_lowres")] == [
        line for line in lines if "3d_cascade_fullres__" in line
    ]


@pytest.mark.parametrize(
    ("configurations", "folds", "missing"),
    [
        ('["3d_cascade_fullres"]', "[0, 1]", "0, 1"),
        ('["3d_lowres", "3d_cascade_fullres"]', "[0]", "1"),
        ('["3d_lowres", "3d_cascade_fullres"]', '["all"]', None),
    ],
)
def test_a_cascade_whose_first_stage_does_not_predict_all_cases_is_refused(
    cascade, tmp_path, configurations, folds, missing
):
    from nnunetv2_mamba.benchmark.checks import resolve

    text = f"datasets = [901]\nconfigurations = {configurations}\nfolds = {folds}\nseeds = [3]\n"
    text += '[[group]]\ntrainers = ["nnUNetTrainer"]\nplans = ["cascadePlans"]\n'
    sweep = read_sweep(write_sweep(tmp_path, text))
    if missing is None:
        assert len(resolve(sweep).previous) == 1
        return
    message = (
        "sweep.toml, configurations: 3d_cascade_fullres of cascadePlans .* add 3d_lowres with the same trainer and "
    )
    with pytest.raises(SweepError, match=f"{message}seed 3, fold {missing}$"):
        resolve(sweep)


def test_splits_that_are_no_list_of_folds_are_named(tmp_path, monkeypatch):
    from nnunetv2_mamba.benchmark.checks import _check_fold

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / TRAINING.dataset).mkdir()
    (tmp_path / TRAINING.dataset / "splits_final.json").write_text("5")
    with pytest.raises(SweepError, match="sweep.toml, folds: .*splits_final.json must hold a list"):
        _check_fold(Path("sweep.toml"), TRAINING)


def test_folds_that_nnunet_will_not_make_are_refused(tmp_path, monkeypatch):
    """Without splits_final.json it makes five, and of a sixth a random split that no table of folds knows."""
    from nnunetv2_mamba.benchmark.checks import _check_fold

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    (tmp_path / TRAINING.dataset).mkdir()
    (tmp_path / TRAINING.dataset / "dataset.json").write_text('{"numTraining": 5}')
    _check_fold(Path("sweep.toml"), replace(TRAINING, fold=4))
    with pytest.raises(SweepError, match="sweep.toml, folds: .* has 5 folds, counted from 0; there is no 5"):
        _check_fold(Path("sweep.toml"), replace(TRAINING, fold=5))
    (tmp_path / TRAINING.dataset / "dataset.json").write_text('{"numTraining": 4}')
    with pytest.raises(SweepError, match="sweep.toml, folds: .* has too few cases for the 5 folds"):
        _check_fold(Path("sweep.toml"), TRAINING)
    _check_fold(Path("sweep.toml"), replace(TRAINING, fold="all"))


OTHER_PLUGIN = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
class nnUNetTrainerSegMamba(nnUNetTrainer):
    pass
"""


@pytest.mark.parametrize("first", [True, False])
def test_of_two_plugins_trainers_the_one_that_nnunet_takes_is_taken(tmp_path, monkeypatch, first):
    from nnunetv2_mamba._register import DISCOVERY
    from nnunetv2_mamba.benchmark.checks import trainer_class
    from nnunetv2_mamba.trainers import nnUNetTrainerSegMamba

    (tmp_path / "other_plugin_of_a_test.py").write_text(OTHER_PLUGIN)
    folders = [str(tmp_path), DISCOVERY]
    monkeypatch.setenv("nnUNet_extTrainer", os.pathsep.join(folders if first else folders[::-1]))
    assert (trainer_class("nnUNetTrainerSegMamba") is nnUNetTrainerSegMamba) is not first


def test_trainers_of_the_ready_made_files_exist():
    from nnunetv2_mamba.benchmark.checks import trainer_class

    for name in ready_made():
        for training in read_sweep(find_file(name), [4]).trainings:
            assert trainer_class(training.trainer).__name__ == training.trainer
