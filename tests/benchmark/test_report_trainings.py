"""What the tables of kept trainings compare, and say that they leave out."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_mamba.benchmark.sweep import read_sweep
from nnunetv2_mamba.evaluation import statistics
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.training_statistics import over_folds

FOLDER = Path(__file__).parents[2] / "benchmarks"
PLANS = "nnUNetSegMambaSmallPlans"
TRAINER = "nnUNetTrainerSegMamba"
CASES = 6
TWINS = "The networks and their twins without Mamba"


@pytest.fixture
def report(monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 99)
    specification = importlib.util.spec_from_file_location("report_trainings", FOLDER / "report_trainings.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def trained(rng, fold, seed, trainer=TRAINER, plans=PLANS, dice=0.8):
    values = rng.normal(dice, 0.01, (CASES, 3))
    cases = {
        f"case_{fold}{number}": {"whole": dict(zip(("dice", "hd95", "nsd"), own, strict=True))}
        for number, own in enumerate(values.tolist())
    }
    cost = {"trainer": trainer, "plans": plans, "fold": fold, "seed": seed, "parameters": 1, "flops": 1}
    return {"cost": cost, "curve": [0.5] * 10, "cases": cases}


def study(models=(TRAINER, f"{TRAINER}NoMamba"), folds=3):
    """Three seeds of fold 0, one of the others; the first network is better by 0.1 in every fold but for the noise."""
    rng, found = np.random.default_rng(0), {}
    for number, trainer in enumerate(models):
        for fold in range(folds):
            for seed in range(1 if fold else 3):
                found[f"{trainer} {fold} {seed}"] = trained(rng, fold, seed, trainer, dice=0.9 - 0.1 * number)
    return found


def compared(report, trainings):
    return compare_tables(report.tables_of(report.with_models(trainings)))


def printed(report, monkeypatch, capsys, tmp_path, trainings, *models):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(trainings), encoding="utf-8")
    steps = [{"trainer": f"{TRAINER}@{PLANS}", "seconds_per_step": 0.25}]
    file.with_name("results_step_time.json").write_text(json.dumps(steps), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["report_trainings.py", str(file), *models])
    report.main()
    return capsys.readouterr().out


def test_models_that_lack_folds_are_named(report, monkeypatch, capsys, tmp_path):
    """Scan orders are trained on fold 0 only: the other folds of all models are left out, and it is said."""
    trainings = study()
    rng = np.random.default_rng(1)
    for seed in range(3):
        trainings[f"six axes {seed}"] = trained(rng, 0, seed, plans="nnUNetSegMambaSmallScanSixAxesPlans")
    everything = printed(report, monkeypatch, capsys, tmp_path, trainings)
    assert everything.startswith(
        "Compared on folds 0. Left out: 1, 2, of which these lack some: SegMamba, six_axes.\n\n"
    )
    assert "seeds of 1 fold" in everything and "3 folds" not in everything
    named = printed(report, monkeypatch, capsys, tmp_path, trainings, "SegMamba", "SegMambaNoMamba")
    assert named.startswith("Compared on folds 0, 1, 2.\n\n") and "3 folds, 2 df" in named


def test_plans_of_one_trainer_are_models_of_their_own(report, monkeypatch, capsys, tmp_path):
    """Their trainings would be taken for further seeds or folds of one model."""
    rng, trainings = np.random.default_rng(3), study((TRAINER,), folds=1)
    for seed in range(3, 6):
        trainings[f"large {seed}"] = trained(rng, 0, seed, plans="nnUNetSegMambaPlans")
        trainings[f"hilbert {seed}"] = trained(rng, 0, seed, plans="nnUNetSegMambaSmallScanHilbertPlans")
        trainings[f"plain {seed}"] = trained(rng, 0, seed, "nnUNetTrainer", "nnUNetSmallPlans")
    text = printed(report, monkeypatch, capsys, tmp_path, trainings, "SegMamba*")
    rows = [line.split(" | ") for line in text.split("\n\n")[1].splitlines()[2:]]
    assert [(row[0], row[4]) for row in rows] == [
        ("| SegMamba, hilbert", "3"),
        ("| SegMamba, nnUNetSegMambaPlans", "3"),
        ("| SegMamba, nnUNetSegMambaSmallPlans", "3"),
    ]


def test_no_common_fold_is_one_line(report, monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(2)
    apart = {"a": trained(rng, 0, 0), "b": trained(rng, 1, 0, f"{TRAINER}NoMamba")}
    with pytest.raises(SystemExit):
        printed(report, monkeypatch, capsys, tmp_path, apart)
    assert "no fold that all of these have: SegMamba; SegMambaNoMamba" in capsys.readouterr().err


def test_what_cannot_be_reported_is_one_line(report, monkeypatch, capsys, tmp_path):
    trainings = study()
    for training, epochs in zip(trainings.values(), [60, *[20] * 9], strict=True):
        training["cost"]["budget"] = {"epochs": epochs}
    for words, message in (
        ((), "trainings of different budgets are not compared: {'epochs': 20}; {'epochs': 60}"),
        (("--every", "1"), "--every must be 2 epochs or more, got 1"),
    ):
        with pytest.raises(SystemExit):
            printed(report, monkeypatch, capsys, tmp_path, trainings, *words)
        assert message in capsys.readouterr().err


def test_twins_are_a_family_of_their_own(report):
    other = "nnUNetTrainerUMamba2"
    trainings = study((TRAINER, f"{TRAINER}NoMamba", other, f"{other}NoMamba"))
    comparison = compared(report, trainings)
    pairs = report.family_only(comparison, TWINS).of("dice")[0].pairs
    assert [(pair.first, pair.second) for pair in pairs] == [
        ("SegMamba", "SegMambaNoMamba"),
        ("UMamba2", "UMamba2NoMamba"),
    ]
    p_values = [pair.trainings.p for pair in pairs]
    assert [pair.trainings.p_holm for pair in pairs] == pytest.approx(statistics.holm(p_values))
    among_all = {(pair.first, pair.second): pair.trainings.p_holm for pair in comparison.of("dice")[0].pairs}
    assert all(pair.trainings.p_holm < among_all[pair.first, pair.second] for pair in pairs)
    assert report.family_pairs(comparison, TWINS, "dice").caption.startswith(f"{TWINS}, a family of their own")


def test_mixers_and_scans_are_families_of_their_own(report):
    rng, trainings = np.random.default_rng(4), study((TRAINER, f"{TRAINER}NoMamba", f"{TRAINER}Conv"), folds=1)
    for seed in range(3):
        trainings[f"mamba2 {seed}"] = trained(rng, 0, seed, f"{TRAINER}Mamba2")
        trainings[f"hilbert {seed}"] = trained(rng, 0, seed, plans="nnUNetSegMambaSmallScanHilbertPlans")
        trainings[f"random {seed}"] = trained(rng, 0, seed, plans="nnUNetSegMambaSmallScanRandomPlans")
    families = {
        "Mamba and what stands in its place": ["SegMambaConv", "SegMambaMamba2"],
        "The network's own scan and other orders": ["SegMamba, hilbert", "SegMamba, random"],
    }
    for family, others in families.items():
        pairs = report.family_only(compared(report, trainings), family).of("dice")[0].pairs
        assert [(pair.first, pair.second) for pair in pairs] == [("SegMamba", other) for other in others]
        expected = statistics.holm([pair.trainings.p for pair in pairs])
        assert [pair.trainings.p_holm for pair in pairs] == pytest.approx(expected)


def test_all_twins_together_differ_by_the_mean_of_the_pairs_in_each_fold(report):
    names = (TRAINER, f"{TRAINER}NoMamba", "nnUNetTrainerUMamba2", "nnUNetTrainerUMamba2NoMamba")
    trainings = study(names)
    means = {name: np.mean([v["whole"]["dice"] for v in own["cases"].values()]) for name, own in trainings.items()}

    def of_fold(trainer, fold):
        return np.mean([mean for name, mean in means.items() if name.startswith(f"{trainer} {fold}")])

    signs = (0.5, -0.5, 0.5, -0.5)
    expected = over_folds(
        np.array([sum(s * of_fold(name, fold) for s, name in zip(signs, names, strict=True)) for fold in range(3)])
    )
    comparison = compared(report, trainings)
    row = report.family_pairs(comparison, TWINS, "dice").rows[-1]
    assert row[:2] == ("mean of these", "mean of these")
    assert row[2] == report.with_interval(*map(float, expected[:3]), "dice")
    assert row[3] == "3 folds, 2 df" and row[4] == report.p_value(float(expected.p))
    on_fold_0 = {name: own for name, own in trainings.items() if own["cost"]["fold"] == 0}
    assert len(report.family_pairs(compared(report, on_fold_0), TWINS, "dice").rows) == 2
    assert len(report.family_pairs(compared(report, study()), TWINS, "dice").rows) == 1


def test_models_without_twins_have_no_table_of_them(report):
    trainings = study((TRAINER, "nnUNetTrainerUMamba2"))
    assert report.family_pairs(compared(report, trainings), TWINS, "dice") is None


def test_a_fold_counts_once_however_many_seeds_it_has(report):
    """Three seeds of fold 0 are averaged in it; the t-test has a difference for each fold."""
    trainings = study()
    means = {name: np.mean([v["whole"]["dice"] for v in own["cases"].values()]) for name, own in trainings.items()}
    of_models = [
        [np.mean([mean for name, mean in means.items() if name.startswith(f"{trainer} {fold}")]) for fold in range(3)]
        for trainer in (TRAINER, f"{TRAINER}NoMamba")
    ]
    expected = over_folds(np.subtract(*of_models))
    (pair,) = report.family_only(compared(report, trainings), TWINS).of("dice")[0].pairs
    found = pair.trainings
    assert (found.difference, found.low, found.high, found.p) == pytest.approx(tuple(map(float, expected[:4])))


def test_both_sweeps_train_alike():
    """Their models are compared with each other."""
    folder = FOLDER / "small_networks"
    first, second = (read_sweep(folder / name, [4]) for name in ("sweep.toml", "mixers_and_scans.toml"))
    assert first.machine == second.machine
    (budget,) = {training.budget for training in (*first.trainings, *second.trainings)}
    assert budget.epochs * budget.iterations == 3000
