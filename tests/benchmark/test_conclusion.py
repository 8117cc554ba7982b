"""The end of a sweep: trainings are pretended; evaluation, comparison and report are real."""

import json
import os
import shutil
from dataclasses import replace
from unittest.mock import patch

import pandas as pd
import pytest
from sweep_cases import GROUPS, TRAINING, pretend_finished, write_sweep
from tiny_dataset import TinyDataset

from nnunetv2_mamba.benchmark import command as module
from nnunetv2_mamba.benchmark import conclusion
from nnunetv2_mamba.benchmark.sweep import fold_differences
from nnunetv2_mamba.benchmark.training import Budget, Training
from nnunetv2_mamba.evaluation.evaluate_pairings import evaluate_pairings
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.pairings import from_results

SPLITS = [["case_0", "case_1", "case_2"], ["case_3", "case_4"], ["case_5"]]
OURS = {"trainer": "nnUNetTrainerSegMamba", "plans": "tinySegMambaPlans"}


@pytest.fixture
def preprocessed(tiny_dataset: TinyDataset, tmp_path, monkeypatch):
    """The tiny data set twice, with splits."""
    base = tmp_path / "preprocessed"
    for name in ("Dataset901_Tiny", "Dataset902_Other"):
        shutil.copytree(tiny_dataset.preprocessed / "Dataset901_Tiny", base / name)
        (base / name / "splits_final.json").write_text(json.dumps([{"train": [], "val": val} for val in SPLITS]))
        for plans in base.glob(f"{name}/*Plans.json"):
            plans.write_text(json.dumps(json.loads(plans.read_text()) | {"dataset_name": name}))
    monkeypatch.setenv("nnUNet_preprocessed", str(base))
    monkeypatch.setattr(
        "nnunetv2_mamba.evaluation.evaluate_pairings.default_num_processes", 1
    )  # every spawned one imports torch
    return base


def pretend(training: Training, sweep, preprocessed, right: bool = True) -> None:
    """A finished run whose predictions are the references, or those of other cases."""
    pretend_finished(training, sweep)
    folder, data = training.folder(sweep), preprocessed / training.dataset
    for index, case in enumerate(SPLITS[training.fold]):
        other = case if right else SPLITS[training.fold][index - 1]
        shutil.copy(data / "gt_segmentations" / f"{other}.nii.gz", folder / "validation" / f"{case}.nii.gz")
    shutil.copy(data / "dataset.json", folder.parent)
    shutil.copy(data / f"{training.plans}.json", folder.parent / "plans.json")


@pytest.mark.slow
def test_models_with_other_folds_are_compared_on_the_common_ones(preprocessed, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    text = "datasets = [901]\nfolds = [0, 1]\n" + GROUPS + "[[exclude]]\ntrainer = 'nnUNetTrainerSegMamba'\nfold = 1\n"
    for training in (
        TRAINING,
        replace(TRAINING, fold=1),
        replace(TRAINING, fold=2),
    ):  # fold 2 is left from another sweep
        pretend(training, sweep, preprocessed)
    pretend(replace(TRAINING, **OURS), sweep, preprocessed, right=False)
    (replace(TRAINING, fold=2).folder(sweep) / "validation" / "case_5.nii.gz").unlink()

    with patch("nnunetv2_mamba.evaluation.compare_results.make_files", return_value={}):  # the pictures take long
        assert module.benchmark(str(write_sweep(tmp_path, text)), sweep) == 0
    assert module.benchmark(str(write_sweep(tmp_path, text)), sweep) == 0  # again on what is there
    output = capsys.readouterr()
    assert "WARNING: models of Dataset901_Tiny 3d_fullres will be compared on fold 0 only" in output.out
    assert "nnUNetTrainerSegMamba with tinySegMambaPlans lacks fold 1" in output.out
    assert "Compared without fold_1, which not all models have" in output.out and "not compared" not in output.err
    comparison = sweep / "comparison" / "Dataset901_Tiny__3d_fullres"
    values = pd.read_csv(comparison / "values.csv")
    assert set(values["case"]) == set(SPLITS[0]) and values["result"].nunique() == 2
    assert (comparison / "report.html").is_file()
    assert (replace(TRAINING, fold=1).folder(sweep) / "validation" / "evaluation.csv").is_file()


@pytest.mark.slow
def test_more_seeds_of_a_fold_are_repetitions_of_the_models(preprocessed, tmp_path, capsys):
    """Two folds of seed 0, fold 0 of seed 1 too: all folds are compared, and both seeds are in it."""
    sweep = tmp_path / "sweep"
    for more in ({}, OURS):
        for fold, seed in ((0, 0), (1, 0), (0, 1)):
            pretend(replace(TRAINING, fold=fold, seed=seed, **more), sweep, preprocessed, right=not more)
    trainers = 'trainers = ["nnUNetTrainer"]', 'trainers = ["nnUNetTrainerSegMamba"]'
    plans = 'plans = ["nnUNetPlans"]', 'plans = ["tinySegMambaPlans"]'
    which = "folds = [0, 1]\nseeds = [0]", "folds = [0]\nseeds = [1]"
    groups = [f"[[group]]\n{trainers[i]}\n{plans[i]}\n{which[j]}\n" for i in range(2) for j in range(2)]
    with patch("nnunetv2_mamba.evaluation.compare_results.make_files", return_value={}):
        assert module.benchmark(str(write_sweep(tmp_path, "datasets = [901]\n" + "".join(groups))), sweep) == 0
    output = capsys.readouterr()
    assert "WARNING" not in output.out and "Compared without" not in output.out
    assert "not compared" not in output.err
    assert "Noise floor: standard deviation of the mean" in output.out
    assert "The networks, trained again (2 folds):" in output.out


def test_no_common_fold_is_told(preprocessed, tmp_path, capsys):
    sweep, other = tmp_path / "sweep", replace(TRAINING, fold=1, **OURS)
    pretend(TRAINING, sweep, preprocessed)
    pretend(other, sweep, preprocessed)
    first, second = GROUPS.split("[[group]]")[1:]
    text = f"datasets = [901]\n[[group]]{first}folds = [0]\n[[group]]{second}folds = [1]\n"
    assert module.benchmark(str(write_sweep(tmp_path, text)), sweep) == 0
    output = capsys.readouterr().out
    assert "3d_fullres cannot be compared, because their folds differ" in output and "no fold in common" in output
    assert (other.folder(sweep) / "validation" / "evaluation.csv").is_file()


def test_a_data_set_that_cannot_be_evaluated_keeps_no_other_from_it(preprocessed, tmp_path, capsys):
    sweep = tmp_path / "sweep"
    for dataset in ("Dataset901_Tiny", "Dataset902_Other"):
        for more in ({}, OURS):
            pretend(replace(TRAINING, dataset=dataset, **more), sweep, preprocessed, right=not more)
    (preprocessed / "Dataset902_Other" / "gt_segmentations" / "case_1.nii.gz").unlink()
    text = "datasets = [902, 901]\nfolds = [0]\n" + GROUPS
    with patch("nnunetv2_mamba.evaluation.compare_results.make_files", return_value={}):
        assert module.benchmark(str(write_sweep(tmp_path, text)), sweep) == 1
    output = capsys.readouterr()
    assert "Dataset902_Other__3d_fullres is not compared" in output.err and "case_1" in output.err
    assert f"Report: {sweep / 'comparison' / 'Dataset901_Tiny__3d_fullres'}" in output.out


@pytest.mark.parametrize("own", [{"groups": ("lesions",)}, {"nsd_tolerance": 2.0}, {}])
def test_what_a_user_has_measured_in_a_fold_is_kept(own, preprocessed, tmp_path, monkeypatch):
    """Resumed, the sweep measures what nobody has; it compares what was measured alike, and says what was not."""
    trainings = [replace(TRAINING, fold=fold, **more) for more in ({}, OURS) for fold in (0, 1)]
    for training in trainings:
        pretend(training, tmp_path, preprocessed, right=training.trainer == TRAINING.trainer)
    mine, *others = (training.folder(tmp_path) for training in trainings)
    evaluate_pairings(from_results(mine), MetricOptions(**own))
    files = [mine / "validation" / f"evaluation.{ending}" for ending in ("csv", "json")]
    measured = [file.read_bytes() for file in files]
    if not own:
        files[0].write_text("a table that does not fit its record")
    models = conclusion.complete_models(trainings, tmp_path)["Dataset901_Tiny__3d_fullres"]
    conclusion.evaluate_models(models)
    conclusion.evaluate_models({mine.parent: [mine.name]})  # of all that is asked for, nothing is to be measured
    assert [file.read_bytes() for file in files] == measured
    assert all((fold / "validation" / "evaluation.csv").is_file() for fold in others)
    monkeypatch.setattr("nnunetv2_mamba.evaluation.compare_results.make_files", lambda *_: {})
    monkeypatch.setattr("nnunetv2_mamba.evaluation.statistics.RESAMPLES", 99)
    if "nsd_tolerance" in own:
        with pytest.raises(ValueError, match="the tolerance of NSD .mm. differs: 2.0 "):
            conclusion.compare_models(models, tmp_path / "out")
    else:
        assert "2 folds" in conclusion.compare_models(models, tmp_path / "out")[0]


def test_a_fold_that_was_trained_again_is_measured_again(preprocessed, tmp_path):
    pretend(TRAINING, tmp_path, preprocessed)
    fold = TRAINING.folder(tmp_path)
    evaluate_pairings(from_results(fold), MetricOptions(groups=("lesions",)))
    table = fold / "validation" / "evaluation.csv"
    measured = table.read_bytes()
    os.utime(table, (0, 0))  # as a copy may be, of which the predictions are newer and the same
    conclusion.evaluate_models({fold.parent: [fold.name]})
    assert table.read_bytes() == measured
    pretend(TRAINING, tmp_path, preprocessed, right=False)
    conclusion.evaluate_models({fold.parent: [fold.name]})
    assert "lesion" in measured.decode() and "lesion" not in table.read_text()


def test_a_refused_sweep_leaves_the_folder_as_it_is(preprocessed, tmp_path):
    sweep, other = tmp_path / "sweep", replace(TRAINING, budget=Budget(epochs=5), **OURS)
    job = other.write(sweep)
    pretend_finished(other, sweep)
    (sweep / "sweep.toml").write_text("as it was")
    with pytest.raises(ValueError, match="another budget or other settings"):
        module.benchmark(str(write_sweep(tmp_path, "datasets = [901]\nfolds = [0]\n" + GROUPS)), sweep)
    assert (sweep / "sweep.toml").read_text() == "as it was" and [*job.parent.iterdir()] == [job]


def test_a_model_is_complete_when_all_its_folds_and_seeds_are_finished(tmp_path):
    whole = [replace(TRAINING, fold=fold, seed=seed) for seed in (0, 1) for fold in (0, 1)]
    part = [replace(training, **OURS) for training in whole]
    elsewhere = [replace(training, dataset="Dataset902_Other") for training in part]
    for training in (*whole, *part[:-1], *elsewhere):
        pretend_finished(training, tmp_path)
    found = conclusion.complete_models([*whole, *part, *elsewhere], tmp_path)
    assert found == {
        f"{own[0].dataset}__3d_fullres": {own[i].folder(tmp_path).parent: ["fold_0", "fold_1"] for i in (0, 2)}
        for own in (whole, elsewhere)
    }


def test_seeds_are_compared_with_those_of_the_common_folds_that_they_have(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr(conclusion, "compare_results", lambda *a, **k: compared.append((*a, k)))
    monkeypatch.setattr(conclusion, "findings", lambda _: [])
    names = ["nnUNetTrainer__nnUNetPlans__3d_fullres", "nnUNetTrainerSegMamba__nnUNetSegMambaPlans__3d_fullres"]
    first, again, second = (
        tmp_path / seed / name for seed, name in (("0", names[0]), ("1", names[0]), ("0", names[1]))
    )
    models = {first: ["fold_0", "fold_1"], again: ["fold_0"], second: ["fold_0", "fold_1", "fold_2"]}
    said = conclusion.compare_models(models, tmp_path / "out")
    assert said[0] == "Compared without fold_2, which not all models have"
    ((paths, output, more),) = compared
    assert (paths, output) == ([first, again, second], tmp_path / "out")
    assert more["folds"] == [{"fold_0", "fold_1"}, {"fold_0"}, {"fold_0", "fold_1"}]
    assert more["names"][0] == more["names"][1] != more["names"][2]
    alone = conclusion.compare_models({first: ["fold_0"], second: ["fold_1"]}, tmp_path / "out")
    assert alone == [f"{names[0]}, {names[1]}: have no fold in common, so they are not compared"]


def test_equal_folds_are_no_difference():
    trainings = [replace(TRAINING, fold=fold, **more) for more in ({}, OURS) for fold in (0, 1)]
    assert fold_differences(trainings) == []
    assert fold_differences([*trainings, replace(TRAINING, seed=1)]) == []
    [line] = fold_differences(trainings[:-1])
    assert "compared on fold 0 only" in line and line.endswith(
        "nnUNetTrainerSegMamba with tinySegMambaPlans lacks fold 1"
    )


def test_names_in_messages_reach_no_terminal_as_commands(tmp_path, monkeypatch, capsys):
    def refuse(_):
        raise ValueError("\x1b]0;label\x07 is no label")

    monkeypatch.setattr("nnunetv2_mamba.benchmark.conclusion.complete_models", lambda *_: {"Dataset901_Tiny__2d": {}})
    monkeypatch.setattr("nnunetv2_mamba.benchmark.conclusion.evaluate_models", refuse)
    assert module._conclude((), tmp_path) is False
    assert "\\x1b]0;label\\x07 is no label" in capsys.readouterr().err
