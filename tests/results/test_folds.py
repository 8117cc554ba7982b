"""Which folds stand for a model's validation, and the names of a training's files."""

from nnunetv2_mamba.results.folds import (
    fold_folders,
    is_of_training_cases,
    note_on_left_out,
    validations,
)


def test_the_fold_of_all_cases_counts_alone_only(tmp_path):
    everything = tmp_path / "fold_all" / "validation"
    everything.mkdir(parents=True)
    assert validations(tmp_path) == [everything] and note_on_left_out(tmp_path) is None
    (tmp_path / "fold_1").mkdir()  # not validated yet
    assert fold_folders(tmp_path) == [tmp_path / "fold_1", everything.parent] and validations(tmp_path) == [everything]
    other = tmp_path / "fold_0" / "validation"
    other.mkdir(parents=True)
    assert fold_folders(tmp_path) == [tmp_path / "fold_0", tmp_path / "fold_1"] and validations(tmp_path) == [other]
    assert note_on_left_out(tmp_path).startswith(f"{everything.parent} is left out beside the other folds")


def test_training_cases(tmp_path):
    (tmp_path / "run_17" / "validation").mkdir(parents=True)
    (tmp_path / "fold_all").symlink_to(tmp_path / "run_17")
    assert is_of_training_cases(tmp_path / "fold_all" / ".." / "fold_all" / "validation")
    assert not is_of_training_cases(tmp_path / "run_17" / "validation")
    assert not is_of_training_cases(tmp_path / "fold_all")
    assert not is_of_training_cases(tmp_path / "fold_0" / "validation")
