"""``evaluate --add`` as a whole: files of nnU-Net's own export, what is recorded, compared and refused."""

import json
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import SimpleITK
from nnunetv2.inference.export_prediction import export_prediction_from_logits
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from segmentation_folders import (
    DATASET,
    PLANS,
    SPACING,
    write_cases,
    write_folders,
    write_image,
    write_json,
    write_results,
)

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation import evaluate_pairings as module
from nnunetv2_mamba.evaluation.compare_tables import compare_tables
from nnunetv2_mamba.evaluation.evaluated_model import read_evaluated_model
from nnunetv2_mamba.evaluation.metric_options import GROUPS
from nnunetv2_mamba.evaluation.metrics import METRICS, metrics_of
from nnunetv2_mamba.evaluation.provenance import check_alike
from nnunetv2_mamba.evaluation.report.methods import _measuring, paragraphs
from nnunetv2_mamba.evaluation.tables import read_metrics

CASES = ["a", "b"]
EVERYTHING = ["--add", *GROUPS]
REGIONS = {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}


def evaluate(folders, *options):
    return main(["evaluate", *map(str, folders), "-np", "1", *map(str, options)])


def error_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def labels_of(file):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))


def write_probabilities(predictions, sure=0.9, heads=4):
    """A softmax that gives every voxel its predicted label."""
    for file in sorted(predictions.glob("*.nii.gz")):
        predicted = labels_of(file)[None] == np.arange(heads).reshape(-1, 1, 1, 1)
        array = np.where(predicted, sure, (1 - sure) / (heads - 1)).astype(np.float32)
        np.savez_compressed(predictions / f"{file.name.removesuffix('.nii.gz')}.npz", probabilities=array)


@pytest.fixture
def folders(tmp_path):
    folders = write_folders(tmp_path, CASES)
    write_probabilities(folders[1])
    return folders


def test_everything_is_measured_and_recorded(folders, capsys):
    assert evaluate(folders, *EVERYTHING, "--lesion-dilation", 1, "--lesion-smallest", 4) == 0
    shown = capsys.readouterr().out
    assert "absolute_volume_error [ml]" in shown and "lesion_f1 at IoU 0.25" in shown
    table = read_metrics(folders[1]).set_index(["case", "label", "metric"])["value"]
    assert [*table.index.unique("metric")] == [*METRICS]
    reference, prediction = (labels_of(folder / "a.nii.gz") for folder in folders)
    voxels = [int((array == 1).sum()) for array in (reference, prediction)]
    assert table["a", "left", "absolute_volume_error"] == pytest.approx(
        abs(voxels[0] - voxels[1]) * np.prod(SPACING) / 1000
    )
    # One threshold tells the predicted voxels from the rest, whose precision is the label's share.
    tp = int(((reference == 1) & (prediction == 1)).sum())
    recall = tp / voxels[0]
    area = recall * tp / voxels[1] + (1 - recall) * voxels[0] / reference.size
    assert table["a", "left", "pr_auc"] == pytest.approx(area)
    assert table[:, "never there"].isna().sum() == len(CASES) * len(METRICS)

    about = json.loads((folders[1] / "evaluation.json").read_text())["evaluation"]
    assert [*about["definitions"]] == [*METRICS]
    settings = {
        "lesion_dilation": 1, "lesion_connectivity": 26, "lesion_volume_mm3": 4.0, "lesion_penalty_mm": 374.0,
        "lesion_iou": 0.25,
    }  # fmt: skip
    assert {key: about[key] for key in settings} == settings
    assert any("ece are as defined" in rule for rule in about["empty"])


def test_nothing_of_it_is_measured_unless_it_is_asked_for(folders, monkeypatch):
    """Nor is a file of probabilities read."""
    (folders[1] / "a.npz").write_bytes(b"damaged")
    assert evaluate(folders) == 0
    assert read_metrics(folders[1])["metric"].unique().tolist() == [*metrics_of()]
    about = json.loads((folders[1] / "evaluation.json").read_text())["evaluation"]
    assert not any(key.startswith("lesion") for key in about)


def test_what_is_added_changes_nothing_else(folders, tmp_path):
    assert evaluate(folders, "-o", tmp_path / "plain") == 0
    assert evaluate(folders, "-o", tmp_path / "more", *EVERYTHING) == 0
    plain, more = (read_metrics(tmp_path / name) for name in ("plain", "more"))
    same = more[more["metric"].isin([*metrics_of()])].reset_index(drop=True)
    pd.testing.assert_frame_equal(same, plain, check_exact=True)


def test_probabilities_that_changed_are_measured_again(folders, monkeypatch):
    names, measure = [], module.measure_files
    monkeypatch.setattr(module, "measure_files", lambda *a: names.append(a[1].name) or measure(*a))
    options = ("--add", "probabilities")
    assert evaluate(folders, *options) == 0
    with np.load(folders[1] / "b.npz") as file:
        array = file["probabilities"]
    np.savez_compressed(folders[1] / "b.npz", probabilities=np.roll(array, 1, axis=1))
    before = read_metrics(folders[1])["value"]
    names.clear()
    assert evaluate(folders, *options) == 0
    assert names == ["b.nii.gz"] and not before.equals(read_metrics(folders[1])["value"])


# --- of nnU-Net's own export


@pytest.mark.parametrize("dataset", [DATASET, DATASET | REGIONS], ids=["labels", "regions"])
def test_the_axes_are_those_of_nnunets_export(dataset, tmp_path, monkeypatch):
    """A results folder with nnU-Net's own files of a plan with other axes and a crop; of a cube, so no shape tells.

    The logits are the reference's, so that every label is told apart, if each voxel is where it belongs.
    """
    results, preprocessed = write_results(tmp_path, {"fold_0": CASES}, [CASES])
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    configuration = {
        "spacing": [1.0, 1.0, 1.0],
        "architecture": {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    }
    plans = PLANS | {
        "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0],
        "configurations": {"3d_fullres": configuration},
    }  # fmt: skip
    write_json(results / "plans.json", plans)
    write_json(results / "dataset.json", dataset)
    manager = PlansManager(plans)
    for case in CASES:
        image = SimpleITK.ReadImage(preprocessed / "gt_segmentations" / f"{case}.nii.gz")
        array = np.zeros((14, 14, 14), np.uint8)
        array[:12] = SimpleITK.GetArrayFromImage(image)[:, :14, :14]
        array[..., :2] = 0
        image = SimpleITK.GetImageFromArray(array)
        SimpleITK.WriteImage(image, preprocessed / "gt_segmentations" / f"{case}.nii.gz")
        truth = array.transpose(2, 0, 1)[2:]  # cropped along the first of the plan's axes
        if dataset == DATASET:
            heads = np.stack([truth == value for value in range(4)])
        else:
            heads = np.stack([truth > 0, truth == 2])
        stuff = {"spacing": (1.0,) * 3, "origin": (0.0,) * 3, "direction": tuple(np.eye(3).ravel())}
        properties = {
            "spacing": [1.0, 1.0, 1.0], "sitk_stuff": stuff, "shape_before_cropping": (14, 14, 14),
            "bbox_used_for_cropping": [[2, 14], [0, 14], [0, 14]],
            "shape_after_cropping_and_before_resampling": (12, 14, 14),
        }  # fmt: skip
        export_prediction_from_logits(
            np.where(heads, 3, -3).astype(np.float32), properties, manager.get_configuration("3d_fullres"), manager,
            dataset, str(results / "fold_0" / "validation" / case), save_probabilities=True, num_threads_torch=1,
        )  # fmt: skip
    assert evaluate([results], "--add", "probabilities", "lesions") == 0
    values = read_metrics(results).pivot_table(index=["case", "label"], columns="metric", values="value")
    assert len(values) == 2 * len(CASES)
    assert (values["dice"] == 1).all() and (values["pr_auc"] == 1).all()
    sure = 1 / (1 + np.exp(-3)) if dataset != DATASET else 1 / (1 + 3 * np.exp(-6))
    assert (values["ece"] < 1 - sure + 1e-6).all() and (values["ece"] > 0).all()


# --- comparing


@pytest.fixture
def two_models(tmp_path):
    """The first lacks a slice of what the reference has; the second lacks six, and what it has lies elsewhere."""
    names = [f"{i}" for i in range(8)]
    references = write_cases(tmp_path / "labelsTr", names, 1)
    write_json(tmp_path / "dataset.json", DATASET)
    models = [write_cases(tmp_path / name, names, 1) for name in ("A", "B")]
    for model, lacking, shift in zip(models, (1, 6), (0, 3), strict=True):
        for file in model.glob("*.nii.gz"):
            array = np.roll(labels_of(file), shift, axis=2)
            array[:lacking] = 0
            write_image(file, array)
        write_probabilities(model)
        assert evaluate([references, model], *EVERYTHING, "--lesion-smallest", 5) == 0
    return references, models


def test_models_are_compared_by_added_metrics(two_models):
    """Higher or lower is better as the entry says; the methods give the definitions and the settings."""
    _, models = two_models
    added = ["relative_volume_error", "lesion_f1", "lesion_count_difference", "pr_auc"]
    tables = [(model.name, read_metrics(model).query("label == 'left'")) for model in models]
    comparison = compare_tables(tables, added)
    assert [item.metric for item in comparison.overall] == added
    for item in comparison.overall:
        assert [(result.name, result.rank) for result in item.results] == [("A", 1), ("B", 2)], item.metric
        assert item.pairs[0].better == "A" and item.pairs[0].rank_biserial > 0.5
    measuring = paragraphs(comparison, {model.name: [read_evaluated_model(model)] for model in models})[1]
    assert "Lesion-wise F1: 2 TP / (" in measuring and "The least IoU of matched lesions is 0.25." in measuring
    assert "The distance to an empty mask is inf." in measuring
    assert "The volume up to which lesions are left out is 5.0 mm3." in measuring


def test_models_are_compared_if_measured_alike(two_models, tmp_path, capsys):
    references, (first, second) = two_models
    compare = ["compare", str(first), str(second), "-o", str(tmp_path / "out"), "--metric", "lesion_f1", "lesion_dice"]
    assert evaluate([references, second], "--add", "lesions", "--lesion-dilation", 0) == 0
    assert main(compare) == 1
    line = error_line(capsys)
    assert "how often lesions are dilated differs: 3 " in line and "lesions are left out [mm3] differs: 5.0 " in line
    assert "IoU" not in line
    assert evaluate([references, second]) == 0
    assert main(compare) == 1
    assert "B has no lesion_f1, lesion_dice: nnunetv2_mamba evaluate ... --add lesions" in error_line(capsys)


def test_metrics_added_to_one_model_keep_no_others_from_being_compared(two_models):
    """Unless the rule for empty masks is another one, which is recorded by itself."""
    references, (first, second) = two_models
    models = [read_evaluated_model(first), None]
    for options, alike in (((), True), (("--empty-distance", "diagonal"), False)):
        assert evaluate([references, second], *options) == 0
        models[1] = read_evaluated_model(second)
        check_alike(models, ["dice", "nsd"])
        with nullcontext() if alike else pytest.raises(ValueError, match="the distance to an empty mask differs: inf"):
            check_alike(models, ["hd95"])
    measuring = _measuring({model.path.name: [model] for model in models})
    assert "Dice: 2 TP" in measuring and "esion" not in measuring  # nobody compares them


# --- refusals


def test_missing_probabilities_are_one_line(folders, capsys):
    for case in CASES:
        (folders[1] / f"{case}.npz").unlink()
    assert evaluate(folders, "--add", "probabilities") == 1
    line = error_line(capsys)
    assert f"no probabilities of 2 cases: there is no {folders[1]}/a.npz, {folders[1]}/b.npz; nnUNetv2_predict" in line
    assert "--save_probabilities" in line and "--val --npz" in line
    assert not list(folders[1].glob("evaluation*"))


def test_probabilities_of_another_network_are_one_line(folders, capsys):
    write_probabilities(folders[1], heads=3)
    assert evaluate(folders, "--add", "probabilities") == 1
    line = error_line(capsys)
    assert f"2 of 2 cases cannot be evaluated: {folders[1]}/a.npz has an array of shape (3, 12, 14, 16)" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--lesion-iou", "0.5"], "--lesion-iou is for the metrics of lesions: add --add lesions"),
        (["--add", "volumes", "--lesion-dilation", "0"], "--lesion-dilation is for the metrics of lesions"),
        (["--add", "lesions", "--lesion-connectivity", "8"], "6, 18 or 26, not 8"),
    ],
)
def test_wrong_options_of_lesions(options, message, folders, capsys):
    assert evaluate(folders, *options) == 1
    assert message in error_line(capsys)


def test_no_such_group(folders, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(folders, "--add", "everything")
    assert "choose from" in error_line(capsys)
    with pytest.raises(ValueError, match="no group of metrics everything; there are volumes, lesions, probabilities"):
        module.MetricOptions(groups=("everything",))
