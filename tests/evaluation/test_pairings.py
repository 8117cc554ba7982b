"""Which files belong together, and that none is left out silently."""

import os
import shutil
from pathlib import Path

import pytest
from segmentation_folders import DATASET, PLANS, write_cases, write_folders, write_json, write_results

from nnunetv2_mamba.evaluation.pairings import from_folders, from_results, shared_cases

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
    with pytest.raises(ValueError, match="has no fold 7.* PRED_DIR and a REF_DIR of its cases alone"):
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"labels": {"background": 0}, "file_ending": ".nii.gz",}', "is no valid JSON: "),
        (b"", "is no valid JSON"),
        ('{"labels": {"ba\u00fc": 0}}'.encode("latin-1"), "is no valid JSON: "),
        (b"[" * 100_000, "is no valid JSON: its brackets are nested too deep"),
        (b"[1, 2]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b'{"file_ending": ".nii.gz"}', "has no 'labels'"),
        (b'{"labels": null, "file_ending": ".nii.gz"}', "'labels' must give each name its value"),
        (b'{"labels": {"background": 0, "a": 1}, "file_ending": "nii.gz"}', "'file_ending' must start with a dot"),
        (b'{"labels": {"background": 0, "a": 1}, "file_ending": 3}', "'file_ending' must start with a dot"),
        (
            b'{"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz", "overwrite_image_reader_writer": [1]}',
            "'overwrite_image_reader_writer' must be a reader's name",
        ),
    ],
)
def test_mistakes_in_dataset_json(content, message, tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(ValueError) as error:
        from_folders(references, predictions)
    assert str(tmp_path / "dataset.json") in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_reader_writer": "NiBabelIO"}, "nnU-Net has no reader 'NiBabelIO'"),
        ({"image_reader_writer": None}, "has no 'image_reader_writer'"),
        ({"label_manager": "Manager"}, "nnU-Net has no 'Manager' .'label_manager'."),
        ({"label_manager": 3}, "has no 'label_manager'"),
        ({"dataset_name": 5}, "has no 'dataset_name'"),
    ],
)
def test_mistakes_in_plans_json(changes, message, results):
    write_json(results / "plans.json", PLANS | changes)
    with pytest.raises(ValueError, match=f"plans.json.*{message}"):
        from_results(results)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "must hold a list"),
        ("[1, 2]", "fold 0 must have a list of cases under 'val'"),
        ('[{"train": []}, {"val": "c"}]', "fold 0 must have a list"),
        ('[{"val": [1]}]', "fold 0 must have a list"),
        ("[", "is no valid JSON"),
    ],
)
def test_mistakes_in_the_splits(content, message, results, tmp_path):
    (tmp_path / "preprocessed" / PLANS["dataset_name"] / "splits_final.json").write_text(content)
    with pytest.raises(ValueError, match=f"splits_final.json.*{message}"):
        from_results(results)


def test_references_that_are_missing_have_a_remedy(results, tmp_path):
    shutil.rmtree(tmp_path / "preprocessed" / PLANS["dataset_name"] / "gt_segmentations")
    with pytest.raises(ValueError, match="gt_segmentations is no folder; nnU-Net's preprocessing .* REF_DIR PRED_DIR"):
        from_results(results)


def test_hidden_files_are_no_cases(results, tmp_path):
    references, predictions = write_folders(tmp_path, ["a"])
    for folder in (references, predictions, results / "fold_0" / "validation"):
        (folder / "._a.nii.gz").write_bytes(b"Mac OS X")
    assert [*from_folders(references, predictions).cases] == ["a"]
    assert [[*pairing.cases] for pairing in from_results(results)] == SPLITS


def test_a_case_that_two_folds_validate_is_said(results, tmp_path):
    assert shared_cases(from_results(results)) is None
    splits = tmp_path / "preprocessed" / PLANS["dataset_name"] / "splits_final.json"
    write_json(splits, [{"val": ["a", "b"]}, {"val": ["b", "c"]}])
    write_cases(results / "fold_1" / "validation", ["b"], 2)
    assert shared_cases(from_results(results)).startswith(
        "1 of the cases are validated by more than one fold: b (fold_0, fold_1)."
    )


def test_a_reader_that_nnunet_does_not_have_is_said(tmp_path, capsys):
    references, predictions = write_folders(tmp_path, ["a"])
    assert from_folders(references, predictions).notes == ()
    write_json(tmp_path / "dataset.json", {**DATASET, "overwrite_image_reader_writer": "NiBabelIO"})
    (note,) = from_folders(references, predictions).notes
    assert "names the reader 'NiBabelIO'" in note and "SimpleITKIO was used" in note
    write_json(tmp_path / "dataset.json", {**DATASET, "overwrite_image_reader_writer": "None"})
    assert from_folders(references, predictions).notes == ()


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_the_reader_is_chosen_by_a_file_that_is_whole(tmp_path, capsys):
    """The first reference is a pipe, which nnU-Net would wait for; it is named when its case is read."""
    references, predictions = write_folders(tmp_path, ["a", "b"])
    (references / "a.nii.gz").unlink()
    os.mkfifo(references / "a.nii.gz")
    assert from_folders(references, predictions).reader.__name__ == "SimpleITKIO"
    (references / "b.nii.gz").write_bytes(b"nothing")
    assert from_folders(references, predictions).reader.__name__ == "SimpleITKIO"
    assert capsys.readouterr().err == ""


def test_folders_are_given_from_within_them(results, tmp_path, monkeypatch):
    """What is recorded of the files does not depend on where the command ran."""
    expected = from_results(results)
    for start, given, found in (
        (results, ".", expected),
        (results / "fold_1", "..", expected),
        (results / "fold_1", ".", expected[1:]),
        (results / "fold_1" / "validation", "..", expected[1:]),
    ):
        monkeypatch.chdir(start)
        assert from_results(Path(given)) == found
    references, predictions = write_folders(tmp_path, ["a"])
    monkeypatch.chdir(references)
    assert from_folders(Path(), Path("../predictions")) == from_folders(references, predictions)


def test_no_results(tmp_path):
    with pytest.raises(ValueError, match="no fold_.*/validation; .*REF_DIR PRED_DIR"):
        from_results(tmp_path)
    write_cases(tmp_path / "fold_0" / "validation", ["a"], 2)
    with pytest.raises(ValueError, match="has no dataset.json"):
        from_results(tmp_path)
