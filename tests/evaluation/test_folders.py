"""Which files belong together, and that none is left out silently."""

import shutil
from pathlib import Path

import pytest
from segmentation_folders import DATASET, PLANS, write_cases, write_folders, write_json, write_results

from nnunetv2_mamba.evaluation.folders import from_folders, from_results

SPLITS = [["a", "b"], ["c"]]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two folds with all of their cases."""
    folder, preprocessed = write_results(tmp_path, {"fold_0": ["a", "b"], "fold_1": ["c"]}, SPLITS)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    return folder


def test_two_folders(tmp_path):
    references, predictions = write_folders(tmp_path, ["a", "a_1", "b"])
    (predictions / "summary.json").write_text("{}")
    pairing = from_folders(references, predictions)
    # nnU-Net's order is that of the files, in which a.nii.gz comes before a_1.nii.gz
    assert {case: [file.parent for file in files] for case, files in pairing.cases.items()} == {
        case: [references, predictions] for case in ("a", "a_1", "b")
    }
    assert pairing.output == predictions and pairing.reader.__name__ == "SimpleITKIO"
    assert [label.name for label in pairing.labels.measured] == ["left", "right", "never there"]


def test_missing_and_further_cases_are_all_named(tmp_path):
    references, predictions = write_folders(tmp_path, ["a", "b", "c"])
    for file in (references / "a.nii.gz", predictions / "b.nii.gz", predictions / "c.nii.gz"):
        file.unlink()
    with pytest.raises(ValueError) as error:
        from_folders(references, predictions)
    assert f"no reference in {references} for a; no prediction in {predictions} for b, c" == str(error.value)


def test_dataset_json_beside_the_predictions_comes_first(tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    write_json(predictions / "dataset.json", {**DATASET, "labels": {"background": 0, "any": [1, 2]}})
    with pytest.raises(ValueError, match="regions_class_order"):
        from_folders(references, predictions)
    named = from_folders(references, predictions, tmp_path / "dataset.json")
    assert named.labels.measured[0].name == "left"


def test_plans_name_the_reader(tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    plans = write_json(tmp_path / "other.json", {**PLANS, "image_reader_writer": "NibabelIO"})
    assert from_folders(references, predictions, plans=plans).reader.__name__ == "NibabelIO"
    write_json(predictions / "plans.json", {**PLANS, "image_reader_writer": "NibabelIOWithReorient"})
    assert from_folders(references, predictions).reader.__name__ == "NibabelIOWithReorient"


def test_dataset_json_names_the_reader(tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    write_json(tmp_path / "dataset.json", {**DATASET, "overwrite_image_reader_writer": "NibabelIO"})
    assert from_folders(references, predictions).reader.__name__ == "NibabelIO"


def test_folders_that_say_nothing(tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    with pytest.raises(ValueError, match="nothing is no folder"):
        from_folders(references, tmp_path / "nothing")
    with pytest.raises(ValueError, match="there is no .*missing.json; name the file with --dataset-json"):
        from_folders(references, predictions, tmp_path / "missing.json")
    write_json(tmp_path / "dataset.json", {"labels": DATASET["labels"]})
    with pytest.raises(ValueError, match="dataset.json has no 'file_ending'"):
        from_folders(references, predictions)
    write_json(tmp_path / "dataset.json", {**DATASET, "file_ending": ".png"})
    with pytest.raises(ValueError, match="has no predictions"):
        from_folders(references, predictions)


def test_all_folds(results):
    pairings = from_results(results)
    assert [[*pairing.cases] for pairing in pairings] == SPLITS
    assert [pairing.output for pairing in pairings] == [results / f"fold_{i}" / "validation" for i in range(2)]
    assert {files[0].parent.name for pairing in pairings for files in pairing.cases.values()} == {"gt_segmentations"}


def test_one_fold(results, tmp_path):
    (pairing,) = from_results(results / "fold_1", tmp_path / "out")
    assert [*pairing.cases] == ["c"] and pairing.output == tmp_path / "out" / "fold_1" / "validation"


def test_the_fold_of_all_cases(results):
    write_cases(results / "fold_all" / "validation", ["a", "b", "c"], 2)
    (pairing,) = from_results(results / "fold_all")
    assert [*pairing.cases] == ["a", "b", "c"] and pairing.training_cases


def test_the_fold_of_all_cases_is_no_validation_beside_others(results, tmp_path, monkeypatch):
    write_cases(results / "fold_all" / "validation", ["a", "b", "c"], 2)
    pairings = from_results(results)
    assert [[*pairing.cases] for pairing in pairings] == SPLITS
    assert not any(pairing.training_cases for pairing in pairings)
    references = tmp_path / "preprocessed" / PLANS["dataset_name"] / "gt_segmentations"
    monkeypatch.chdir(results / "fold_all" / "validation")
    assert from_folders(references, Path("../validation"), results / "dataset.json").training_cases
    for fold in ("fold_0", "fold_1"):  # being trained
        shutil.rmtree(results / fold / "validation")
    (pairing,) = from_results(results)
    assert [*pairing.cases] == ["a", "b", "c"] and pairing.training_cases


def test_every_fold_must_have_its_cases(results):
    (results / "fold_0" / "validation" / "b.nii.gz").unlink()
    write_cases(results / "fold_1" / "validation", ["a", "x"], 2)
    with pytest.raises(ValueError) as error:
        from_results(results)
    message = str(error.value)
    assert f"no prediction in {results}/fold_0/validation for b; no reference in" in message
    assert f"for x; {results}/fold_1/validation has predictions of other cases: a" in message


def test_folds_of_which_nothing_is_known(results, tmp_path, monkeypatch):
    write_cases(results / "fold_7" / "validation", ["a"], 2)
    with pytest.raises(ValueError, match="has no fold 7.* REF_DIR PRED_DIR"):
        from_results(results)
    (results / "fold_1" / "validation").rename(results / "fold_1" / "validation_raw")
    with pytest.raises(ValueError, match="fold_1/validation is no folder"):
        from_results(results / "fold_1")
    splits = tmp_path / "preprocessed" / PLANS["dataset_name"] / "splits_final.json"
    splits.unlink()
    with pytest.raises(ValueError, match="splits_final.json is missing"):
        from_results(results / "fold_0")
    monkeypatch.delenv("nnUNet_preprocessed")
    with pytest.raises(ValueError, match="nnUNet_preprocessed is not set"):
        from_results(results)


def test_no_results(tmp_path):
    with pytest.raises(ValueError, match="no fold_.*/validation; .*REF_DIR PRED_DIR"):
        from_results(tmp_path)
    write_cases(tmp_path / "fold_0" / "validation", ["a"], 2)
    with pytest.raises(ValueError, match="has no dataset.json"):
        from_results(tmp_path)
