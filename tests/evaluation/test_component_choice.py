"""A component filter chosen on folds: scores by brute force, choices by hand, and the verb ``choose-filter``."""

import json
import shutil

import numpy as np
import pytest
from masks import blobs
from scipy.ndimage import label as label_components
from segmentation_folders import DATASET, PLANS, write_image, write_json, write_results

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation.component_choice import CaseComponents, case_components, choose_rule
from nnunetv2_mamba.evaluation.component_rules import ComponentFilter, ComponentRule
from nnunetv2_mamba.evaluation.label_map import Geometry, LabelMap
from nnunetv2_mamba.evaluation.measured_labels import read_labels

SPACING = (2.0, 0.5, 1.0)


def dice(reference, prediction):
    both = reference.sum() + prediction.sum()
    return 2 * (reference & prediction).sum() / both if both else 1.0


@pytest.mark.parametrize(
    "description",
    [
        {"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "absent": 4}},
        {"labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "c": 3}, "regions_class_order": [1, 2, 3]},
    ],
    ids=["labels", "regions"],
)
def test_scores_are_those_of_segmentations_without_the_small_components(description):
    labels = read_labels(description, None)
    shape = (9, 10, 11)
    reference, prediction = (
        sum(blobs(shape, seed + value, 0.3).astype(np.uint8) for value in range(3)) for seed in (0, 10)
    )
    ignored = blobs(shape, 99, 0.1)
    maps = [LabelMap(array + 1, Geometry(shape, SPACING)) for array in (np.where(ignored, -1, reference), prediction)]
    maps = [LabelMap(each.indices.astype(np.uint8), each.geometry) for each in maps]
    for own, found in zip(labels.measured, case_components(*maps, labels), strict=True):
        numbers, n = label_components(np.isin(prediction, own.values), np.ones((3, 3, 3)))
        sizes = np.bincount(numbers.ravel(), minlength=n + 1)[1:]
        assert found.volumes.tolist() == sorted(sizes, reverse=True)
        order = np.argsort(-sizes, kind="stable") + 1
        for n_kept in range(n + 1):
            left = np.where(np.isin(numbers, order[n_kept:]), 0, prediction)
            expected = [
                dice(np.isin(reference, each.values) & ~ignored, np.isin(left, each.values) & ~ignored)
                for each in labels.measured
            ]
            assert found.scores[n_kept] == pytest.approx(np.mean(expected))


def test_pairs_of_many_labels():
    """More than eight bits hold."""
    names = [f"label_{value}" for value in range(1, 20)]
    labels = read_labels({"labels": {"background": 0, **{name: value for value, name in enumerate(names, 1)}}}, None)
    shape, random = (6, 7, 8), np.random.default_rng(0)
    reference, prediction = random.integers(0, 20, (2, *shape), dtype=np.uint8)
    maps = [LabelMap(array + np.uint8(1), Geometry(shape, SPACING)) for array in (reference, prediction)]
    expected = np.mean([dice(reference == value, prediction == value) for value in range(1, 20)])
    for found in case_components(*maps, labels):
        assert found.scores[-1] == pytest.approx(expected)


def case(volumes, scores):
    return CaseComponents(np.array(volumes, float), np.array(scores, float))


STRAY = case([100, 5], [0, 0.9, 0.8])  # the small component is false
SOUND = case([100], [0, 0.9])
REAL = case([100, 6], [0, 0.8, 0.9])  # the small component is true


def test_a_rule_that_helps_on_every_part():
    found = choose_rule({"fold_0": [STRAY, SOUND], "fold_1": [STRAY, SOUND]})
    assert found.rule == ComponentRule(22.36)  # between 5 and 100; the mildest of equal ones
    assert set(found.by_part.values()) == {found.rule}
    assert found.gain == pytest.approx(0.05)


def test_a_number_of_components_where_volumes_do_not_tell():
    small_real = case([5], [0, 0.9])
    found = choose_rule({"fold_0": [STRAY, small_real], "fold_1": [STRAY, small_real]})
    assert found.rule == ComponentRule(0, 1)
    assert found.gain == pytest.approx(0.05)


def test_between_volumes():
    """False ones of 5, true ones of 6 mm3: the smallest that is kept lies between."""
    found = choose_rule({"fold_0": [STRAY, REAL], "fold_1": [STRAY, REAL]})
    assert 5 < found.rule.smallest_mm3 <= 6 and found.rule.largest is None


@pytest.mark.parametrize(
    "cases",
    [
        {"fold_0": [SOUND], "fold_1": [SOUND]},
        {"fold_0": [REAL], "fold_1": [REAL]},
        # what helps on one fold harms the other more: never seen by a choice on all cases alone
        {"fold_0": [STRAY, STRAY, STRAY], "fold_1": [REAL, case([100, 5], [0, 0.5, 0.9])]},
        {"fold_0": [case([], [1.0])], "fold_1": [case([], [0.5])]},
    ],
    ids=["nothing to remove", "true ones", "folds contradict", "no component"],
)
def test_no_rule_where_held_out_cases_do_not_gain(cases):
    found = choose_rule(cases)
    assert found.rule is None and found.gain <= 0


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Two folds of two cases: of the label ``left`` each prediction has a false voxel, of ``right`` each a true one."""
    folds = {"fold_0": ["a", "b"], "fold_1": ["c", "d"]}
    folder, preprocessed = write_results(tmp_path, folds, list(folds.values()))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    reference = np.zeros((6, 8, 10), np.uint8)
    reference[:2, :5] = 1  # 100 voxels
    reference[4:, :5, :5] = 2  # 50
    reference[4, 7, 9] = 2
    write_both(folder, reference)
    return folder


def write_both(results, reference):
    """The reference of all cases, and predictions that have a voxel too many."""
    prediction = reference.copy()
    prediction[2, 7, 9] = 1
    references = results.parents[2] / "preprocessed" / PLANS["dataset_name"] / "gt_segmentations"
    for file in results.glob("fold_*/validation/*.nii.gz"):
        write_image(references / file.name, reference)
        write_image(file, prediction)


def test_choose_filter(results, capsys):
    assert main(["choose-filter", str(results)]) == 0
    said = capsys.readouterr().out.splitlines()
    gain = (1 - 200 / 201) / 3  # of three labels, one of them never there
    # 1 and 100 voxels of 1.76 mm3
    assert said[0] == f"left: keep at least 17.6 mm3; on held-out cases the mean Dice changes by {gain:+.6f}"
    assert said[1].startswith("  fold_0: 2 components removed, 2 of 2 cases changed; Dice 0.9950 to 1.0000, HD95 ")
    assert said[3].startswith("  all: 4 components removed, 4 of 4 cases changed; Dice 0.9950 to 1.0000, HD95 ")
    assert said[3].endswith(" to 0.00 mm, lesion-wise F1 0.6667 to 1.0000")
    assert said[4:6] == [
        "right: keep all; on held-out cases the mean Dice changes by +0.000000",
        "never there: keep all; on held-out cases the mean Dice changes by +0.000000",
    ]
    file = results / "component_filter.json"
    assert said[6:] == [f"written: {file}"]
    assert ComponentFilter.read(file).rules == {"left": ComponentRule(17.6)}
    held_out = json.loads(file.read_text())["report"]["left"]["held_out"]
    assert held_out["all"]["before"]["dice"] == pytest.approx(200 / 201)
    assert held_out["fold_1"]["cases"] == 2


def test_one_fold_is_divided(results, tmp_path, capsys):
    """The filter is the model's, wherever it was chosen; that ``fold_all`` is left out is said."""
    (results / "fold_1").rename(results / "fold_all")
    for folder, *options in ((results, "-o", tmp_path / "filter.json"), (results / "fold_0",)):
        assert main(["choose-filter", str(folder), *map(str, options)]) == 0
    said = capsys.readouterr().out
    assert said.count("Note: ") == said.count("fold_all is left out beside the other folds") == 1
    assert "  part 1 of 2: 1 components removed, 1 of 1 cases changed" in said
    for file in (tmp_path / "filter.json", results / "component_filter.json"):
        assert ComponentFilter.read(file).rules == {"left": ComponentRule(17.6)}


def test_regions_are_all_reported(results, capsys):
    """The false voxel is in one of them; a rule for it could change the others."""
    labels = {"background": 0, "both": [1, 2], "right": 2}
    write_json(results / "dataset.json", {**DATASET, "labels": labels, "regions_class_order": [1, 2]})
    reference = np.zeros((6, 8, 10), np.uint8)
    reference[:2, :5], reference[4:, :5, :5] = 1, 2
    write_both(results, reference)
    assert main(["choose-filter", str(results)]) == 0
    said = capsys.readouterr().out
    assert (
        f"both: keep at least 12.45 mm3; on held-out cases the mean Dice changes by {(1 - 300 / 301) / 2:+.6f}" in said
    )
    report = json.loads((results / "component_filter.json").read_text())["report"]
    assert report["both"]["held_out"]["all"]["after"] == {"dice": 1, "hd95": 0, "lesion_f1": 1}
    right = report["right"]["held_out"]["all"]
    assert (right["changed"], right["removed"]) == (0, 0) and right["before"] == right["after"]


def test_cases_that_the_model_was_trained_on_are_refused(results, capsys):
    (results / "fold_0").rename(results / "fold_all")
    for file in (results / "fold_1/validation").iterdir():
        file.rename(results / "fold_all/validation" / file.name)
    (results / "fold_1/validation").rmdir()
    assert main(["choose-filter", str(results)]) == 1
    assert "fold_all/validation is of cases that the model was trained on" in capsys.readouterr().err


def test_folds_that_share_cases_are_refused(results, capsys):
    """None of these would be held out."""
    splits = results.parents[2] / "preprocessed" / PLANS["dataset_name"] / "splits_final.json"
    write_json(splits, [{"val": ["a", "b"]}, {"val": ["a", "c", "d"]}])
    shutil.copy(results / "fold_0/validation/a.nii.gz", results / "fold_1/validation")
    assert main(["choose-filter", str(results)]) == 1
    assert "a of more than one fold" in capsys.readouterr().err


def test_one_case_is_too_few(results, capsys):
    write_json(results.parents[2] / "preprocessed" / PLANS["dataset_name"] / "splits_final.json", [{"val": ["a"]}])
    (results / "fold_0/validation/b.nii.gz").unlink()
    assert main(["choose-filter", str(results / "fold_0")]) == 1
    assert "has one case; a second one is needed to measure on" in capsys.readouterr().err
