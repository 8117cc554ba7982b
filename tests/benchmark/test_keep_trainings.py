"""What is kept of a sweep's finished trainings, and that nothing of it is lost."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from made_up_models import results_folder, table_of

from nnunetv2_mamba.benchmark.training import Training
from nnunetv2_mamba.evaluation.metrics import DEFAULT_METRICS
from nnunetv2_mamba.nnunet.names import FINAL_CHECKPOINT
from nnunetv2_mamba.results.folds import COST, SUMMARY

TRAININGS = [Training("Dataset998_MadeUp", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", fold, 0) for fold in (0, 1)]


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Calls the script for a sweep of two folds, both evaluated already, neither finished."""
    file = Path(__file__).parents[2] / "benchmarks" / "keep_trainings.py"
    specification = importlib.util.spec_from_file_location("keep_trainings", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    monkeypatch.setattr(module, "evaluate_models", lambda _: None)
    sweep, results = tmp_path / "sweep", tmp_path / "results.json"
    results_folder(sweep / "results" / "seed_0", "nnUNetTrainer", table_of(), cost={})
    for training in TRAININGS:
        training.write(sweep)
    monkeypatch.setattr(sys, "argv", ["keep_trainings.py", str(sweep), str(results)])

    def call():
        module.main()
        return json.loads(results.read_text(encoding="utf-8"))

    return sweep, call


def finish(training, sweep, **cost):
    for name in (FINAL_CHECKPOINT, SUMMARY):
        (training.folder(sweep) / name).touch()
    (training.folder(sweep) / COST).write_text(json.dumps({"fold": training.fold, **cost}))


def test_finished_trainings_are_added_one_by_one(keep, capsys):
    """What is kept stays, whatever becomes of the folder; files of other folds are not looked at."""
    sweep, call = keep
    first, second = TRAININGS
    finish(first, sweep, parameters=7)
    (second.folder(sweep) / COST).write_text('{"versions": "damaged"}')
    (kept,) = call().values()
    assert kept["cost"] == {"fold": 0, "parameters": 7} and kept["curve"] == [0, 0.3, 0.6]
    table = table_of().set_index(["case", "label", "metric"])["value"]
    assert [*kept["cases"]] == [f"case_{number:02d}" for number in range(0, 12, 2)]
    assert kept["cases"]["case_02"]["Anterior"] == {
        name: round(table["case_02", "Anterior", name], 5) for name in DEFAULT_METRICS
    }
    assert capsys.readouterr().out.splitlines()[1:] == [second.name]
    finish(first, sweep, parameters=8)
    finish(second, sweep)
    both = call()
    assert [*both] == [first.name, second.name] and both[first.name] == kept


def test_what_was_measured_in_another_way_is_not_kept(keep):
    """The NSD of another tolerance does not go beside the others'; further metrics may be there."""
    sweep, call = keep
    finish(TRAININGS[0], sweep)
    fold = TRAININGS[0].folder(sweep)
    record = {"definitions": {"nsd": "", "lesion_f1": ""}, "nsd_tolerance_mm": 2.0}
    (fold / "validation" / "evaluation.json").write_text(json.dumps({"evaluation": record}))
    with pytest.raises(SystemExit, match=f"{fold}: nsd was measured with other options .* evaluate {fold}"):
        call()
    record["nsd_tolerance_mm"] = 1.0
    (fold / "validation" / "evaluation.json").write_text(json.dumps({"evaluation": record}))
    assert [*call()] == [TRAININGS[0].name]


def test_a_full_disk_costs_no_results(keep, monkeypatch):
    sweep, call = keep
    finish(TRAININGS[0], sweep)
    before = call()

    def full(_):
        raise OSError(28, "No space left on device")

    finish(TRAININGS[1], sweep)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device: .*results.json"):
            call()
    assert [*before] == [TRAININGS[0].name] and json.loads((sweep.parent / "results.json").read_text()) == before
