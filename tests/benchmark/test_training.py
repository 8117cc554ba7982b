"""A run's files: what tells that it is finished, what is left to do, and who may do it."""

import json
from dataclasses import replace

import pytest
from sweep_cases import TRAINING, hold, pretend_finished

from nnunetv2_mamba.benchmark import job
from nnunetv2_mamba.benchmark.lock import lock
from nnunetv2_mamba.benchmark.training import Budget, Training


@pytest.mark.parametrize("missing", ["checkpoint_final.pth", "validation/summary.json", "cost.json"])
def test_finished_needs_every_file(tmp_path, missing):
    pretend_finished(TRAINING, tmp_path)
    assert TRAINING.finished(tmp_path)
    (TRAINING.folder(tmp_path) / missing).unlink()
    assert not TRAINING.finished(tmp_path)


@pytest.mark.parametrize(
    ("written", "last"),
    [
        ([], "cpu"),
        (["checkpoint_best.pth"], "--c"),
        (["checkpoint_latest.pth", "checkpoint_best.pth"], "--c"),
        (["checkpoint_final.pth", "checkpoint_best.pth"], "--val"),
    ],
)
def test_the_command_is_for_what_is_left(tmp_path, written, last):
    for name in written:
        (tmp_path / name).touch()
    command = job.command(TRAINING, tmp_path, "cpu")
    arguments = ["Dataset901_Tiny", "3d_fullres", "0", "-tr", "nnUNetTrainer", "-p", "nnUNetPlans", "-device", "cpu"]
    assert command[:10] == ["nnUNetv2_train", *arguments] and command[-1] == last


def test_seeds_have_folders_of_their_own(tmp_path):
    assert TRAINING.folder(tmp_path) != replace(TRAINING, seed=1).folder(tmp_path)
    assert TRAINING.folder(tmp_path).parts[-4:] == (
        "seed_0",
        "Dataset901_Tiny",
        "nnUNetTrainer__nnUNetPlans__3d_fullres",
        "fold_0",
    )


def test_written_and_read_back(tmp_path):
    training = replace(TRAINING, fold="all", budget=Budget(3, 2, 1, 2, False), settings={"optimizer": "adamw"})
    assert Training.read(training.write(tmp_path)) == training
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.parametrize("content", ["", '{"dataset": "Dataset9', "{}", "[]", '{"budget": 3}', '{"budget": {"a": 1}}'])
def test_half_a_file_of_a_job_is_named_and_may_be_deleted(tmp_path, content):
    file = TRAINING.write(tmp_path)
    TRAINING.folder(tmp_path).mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(ValueError, match=f"{file.name} is not what nnunetv2_mamba benchmark writes .*delete it"):
        TRAINING.check(tmp_path)
    file.unlink()
    assert Training.read(TRAINING.write(tmp_path)) == TRAINING


def test_results_of_another_budget_are_not_continued(tmp_path):
    replace(TRAINING, budget=Budget(epochs=5)).write(tmp_path)
    other = replace(TRAINING, budget=Budget(epochs=6))
    other.write(tmp_path)  # nothing is trained yet
    TRAINING.folder(tmp_path).mkdir(parents=True)
    with pytest.raises(ValueError, match="another budget or other settings .* name another folder with -o"):
        TRAINING.check(tmp_path)


def test_a_locked_run_is_left_alone_and_a_dead_holder_holds_nothing(tmp_path):
    file = TRAINING.write(tmp_path)
    with hold(TRAINING.lock(tmp_path)) as holder:
        assert job.main([str(file), "--device", "cpu"]) == job.BUSY
        holder.kill()
    with lock(TRAINING.lock(tmp_path)) as held:
        assert held


def test_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    file = TRAINING.write(tmp_path)
    pretend_finished(TRAINING, tmp_path)
    monkeypatch.setattr(job, "train", lambda *_: pytest.fail("trained again"))
    assert job.main([str(file), "--device", "cpu"]) == 0


def test_what_was_measured_counts_its_epochs(tmp_path):
    assert TRAINING.epochs_done(tmp_path) == 0
    TRAINING.folder(tmp_path).mkdir(parents=True)
    (TRAINING.folder(tmp_path) / "cost_partial.json").write_text(json.dumps({"epochs": {"0": {}, "1": {}}}))
    assert TRAINING.epochs_done(tmp_path) == 2


@pytest.mark.parametrize(("epochs", "every"), [(1, 1), (19, 1), (40, 4), (500, 50), (1000, 50)])
def test_ten_checkpoints_of_a_short_budget_and_nnunets_interval_of_a_long_one(epochs, every):
    assert Budget(epochs).settings() == {"num_epochs": epochs, "save_every": every}
