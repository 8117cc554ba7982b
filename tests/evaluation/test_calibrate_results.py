"""The verb ``calibrate`` on folders as nnU-Net leaves them."""

import hashlib
import json
import zipfile

import numpy as np
import pytest
import SimpleITK
from segmentation_folders import DATASET, write_image, write_json, write_results

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation.tables import read_metrics
from nnunetv2_mamba.temperature_file import NAME, read_temperature

FOLDS = [["a", "b"], ["c", "d", "e"]]
REGIONS = {"background": 0, "whole": [1, 2], "core": 2, "never there": 3}


def voxels(file):
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file))


@pytest.fixture(params=["labels", "regions"])
def results(request, tmp_path, monkeypatch):
    """Two folds whose probabilities belong to the predictions and far surer than right."""
    results, preprocessed = write_results(tmp_path, {f"fold_{i}": FOLDS[i] for i in (0, 1)}, FOLDS)
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))
    if request.param == "regions":
        write_json(results / "dataset.json", {**DATASET, "labels": REGIONS, "regions_class_order": [1, 2, 3]})
    rng = np.random.default_rng(0)
    for file in results.glob("fold_*/validation/*.nii.gz"):
        labels = voxels(file)
        if request.param == "regions":
            inside = np.stack([np.isin(labels, values) for values in ([1, 2], [2], [3])])
            logits = rng.gamma(2, 1.5, inside.shape) * np.where(inside, 1, -1)
            probabilities = 1 / (1 + np.exp(-logits))
        else:
            logits = rng.gamma(2, 1.5, labels.shape) * (labels == np.arange(4).reshape(-1, 1, 1, 1))
            probabilities = np.exp(logits) / np.exp(logits).sum(0)
        np.savez_compressed(
            file.with_name(file.name.replace(".nii.gz", ".npz")), probabilities=probabilities.astype(np.float32)
        )
    return results


def test_what_is_found_and_written(results, capsys):
    assert main(["calibrate", str(results)]) == 0
    said = capsys.readouterr().out
    content = json.loads((results / NAME).read_text())
    assert content["temperature"] == content["fitted"] == read_temperature(results).value > 1.5
    assert f"Temperature {content['fitted']:.3f} helps on cases that it was not fitted on" in said
    assert content["n_cases"] == 5 and [*content["fitted_without"]] == ["fold_0", "fold_1"]
    before, after = (content["held_out"][key] for key in ("before", "after"))
    assert after["nll"] < before["nll"] and after["brier"] < before["brier"]

    assert main(["evaluate", str(results), "--add", "probabilities", "-np", "1"]) == 0
    table = read_metrics(results)
    evaluated = table[table["metric"] == "ece"].groupby("label")["value"].mean().dropna()
    assert before["ece"].keys() == set(evaluated.index) and "never there" not in before["ece"]
    for label, value in before["ece"].items():
        assert value == pytest.approx(evaluated[label])
        assert after["ece"][label] < value


def test_a_part_is_measured_at_the_temperature_of_the_others(results):
    """Of fold 0 alone, whose two cases are a part each; its case b gets other probabilities, then only a changes."""
    fold = results / "fold_0"
    assert main(["calibrate", str(fold)]) == 0
    first = json.loads((results / NAME).read_text())
    assert [*first["fitted_without"]] == ["part 1 of 2", "part 2 of 2"] and first["n_cases"] == 2
    file = fold / "validation" / "b.npz"
    with np.load(file) as stored:
        probabilities = stored["probabilities"]
    regions = probabilities.shape[0] == 3
    roots = probabilities**0.5
    softer = roots / (roots + (1 - probabilities) ** 0.5 if regions else roots.sum(0))
    np.savez_compressed(file, probabilities=softer)
    assert main(["calibrate", str(fold)]) == 0
    second = json.loads((results / NAME).read_text())
    assert second["fitted_without"]["part 2 of 2"] == first["fitted_without"]["part 2 of 2"]
    assert second["fitted_without"]["part 1 of 2"] == pytest.approx(
        first["fitted_without"]["part 1 of 2"] / 2, rel=0.01
    )


def test_a_temperature_that_does_not_help_is_not_used(results, capsys):
    """What is fitted on one case makes the other worse: one is right and unsure, the other wrong and sure."""
    validation = results / "fold_0" / "validation"
    for case, share in (("a", 0.6), ("b", 0.999)):
        reference = voxels(validation.parents[4] / f"preprocessed/Dataset902_Blobs/gt_segmentations/{case}.nii.gz")
        with np.load(validation / f"{case}.npz") as stored:
            heads = len(stored["probabilities"])
        said = reference if case == "a" else 3 - reference
        values = ([1, 2], [2], [3]) if heads == 3 else ([0], [1], [2], [3])
        member = np.stack([np.isin(said, value) for value in values])
        others = 1 - share if heads == 3 else (1 - share) / 3
        np.savez(validation / f"{case}.npz", probabilities=np.where(member, share, others).astype(np.float32))
        write_image(validation / f"{case}.nii.gz", said)
    assert main(["calibrate", str(results / "fold_0")]) == 0
    said = capsys.readouterr().out
    assert "does not help on cases that it was not fitted on, so 1 is used: nothing changes" in said
    content = json.loads((results / NAME).read_text())
    assert content["temperature"] == 1 and content["fitted"] > 1.5


def test_the_checkpoints_that_it_is_of_are_recorded(results):
    """So that a temperature is not used for weights that were trained since."""
    (results / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights")
    (results / "fold_2").mkdir()
    (results / "fold_2" / "checkpoint_final.pth").write_bytes(b"not validated")
    assert main(["calibrate", str(results)]) == 0
    digest = hashlib.sha256(b"weights").hexdigest()
    assert read_temperature(results).checkpoints == {"fold_0/checkpoint_final.pth": digest}


def test_probabilities_of_an_older_training_are_refused(results, capsys):
    """nnU-Net leaves them beside the segmentations of a validation without --npz."""
    validation = results / "fold_1" / "validation"
    (validation / "d.nii.gz").write_bytes((validation / "e.nii.gz").read_bytes())
    assert main(["calibrate", str(results)]) == 1
    said = capsys.readouterr().err
    assert f"{validation / 'd.npz'} is of another prediction than {validation / 'd.nii.gz'}" in said
    assert "nnUNetv2_train ... --val --npz" in said


def error_of(capsys, *arguments):
    assert main(["calibrate", *map(str, arguments)]) == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_what_cannot_be_calibrated_is_one_line(results, capsys):
    (results / "fold_1" / "validation" / "d.npz").unlink()
    assert "no probabilities of 1 cases: there is no " in error_of(capsys, results)
    splits = results.parents[2] / "preprocessed/Dataset902_Blobs/splits_final.json"
    (results / "fold_1").rename(results / "fold_all")
    write_json(splits, [{"train": [], "val": FOLDS[0]}])
    assert main(["calibrate", str(results)]) == 0
    assert "fold_all is left out" in capsys.readouterr().out
    write_json(splits, [{"train": [], "val": ["a"]}])
    for file in (results / "fold_0" / "validation").glob("b.*"):
        file.unlink()
    assert "has one case; a second one is needed" in error_of(capsys, results)


def test_the_cases_of_training_are_refused(results, capsys):
    for fold in ("fold_0", "fold_1"):
        for file in (results / fold / "validation").iterdir():
            (results / "fold_all" / "validation").mkdir(parents=True, exist_ok=True)
            file.rename(results / "fold_all" / "validation" / file.name)
        (results / fold / "validation").rmdir()
    assert "is of cases that the model was trained on" in error_of(capsys, results)


def test_folds_that_share_cases_are_refused(results, capsys):
    write_json(
        results.parents[2] / "preprocessed/Dataset902_Blobs/splits_final.json",
        [{"train": [], "val": ["a", "b"]}, {"train": [], "val": ["a", "c", "d", "e"]}],
    )
    for file in (results / "fold_0" / "validation").glob("a.*"):
        (results / "fold_1" / "validation" / file.name).write_bytes(file.read_bytes())
    assert "a of more than one fold" in error_of(capsys, results)


def test_only_a_temperature_is_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{NAME} is missing: make it with nnunetv2_mamba calibrate"):
        read_temperature(tmp_path)
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("model/plans.json", "{}")
    with pytest.raises(FileNotFoundError, match=f"{NAME} is missing: nnUNetv2_export_model_to_zip leaves it out"):
        read_temperature(zipfile.Path(tmp_path / "model.zip", "model/"))
    for value in ("0", '"2"', "NaN", 10**400):
        (tmp_path / NAME).write_text(f'{{"temperature": {value}}}')
        with pytest.raises(ValueError, match=f"{NAME} (has no 'temperature' above 0|is no valid JSON)"):
            read_temperature(tmp_path)
    for content in ("{}", "[1]", "{"):
        (tmp_path / NAME).write_text(content)
        with pytest.raises(ValueError, match=f"{NAME} (has no 'temperature' above 0|is no valid JSON)"):
            read_temperature(tmp_path)
