"""The card of a model that nnU-Net's own files describe, as ``package`` writes it."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from trained_model import rewrite_dataset

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.packaging import build_context
from nnunetv2_mamba.packaging.build_context import Request, write_context
from nnunetv2_mamba.packaging.checksums import check_files
from nnunetv2_mamba.packaging.inference_settings import Choices
from nnunetv2_mamba.packaging.model_card import add_measurement

SUMMARY = {
    "foreground_mean": {"Dice": 0.75, "FN": 12.5},
    "mean": {"1": {"Dice": 0.5, "TP": 3.0}, "2": {"Dice": 1.0, "HD95": float("nan"), "ASSD": 10**400}},
    "metric_per_case": [{}, {}, {}],
}


@pytest.fixture
def model(trained_model, tmp_path, monkeypatch):
    """With a validation of fold 0 and a fingerprint."""
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)
    monkeypatch.setattr(build_context, "try_model", lambda *arguments: None)
    folder = shutil.copytree(trained_model.folder, tmp_path / "model")
    (folder / "fold_0" / "validation").mkdir()
    (folder / "fold_0" / "validation" / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "dataset_fingerprint.json").write_text("{}")
    return folder


@pytest.fixture
def packaged(model, built_wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(build_context, "write_wheel", lambda folder: Path(shutil.copy(built_wheel, folder)))

    def package(source=model, **request):
        folder = tmp_path / "context"
        write_context(Request(source, "flare", **request), folder)
        return folder, json.loads((folder / "model_card.json").read_text()), (folder / "MODEL_CARD.md").read_text()

    return package


def row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return line.removeprefix(f"| {start} | ").removesuffix(" |")


def test_it_says_what_the_files_say(packaged):
    folder, card, text = packaged()
    (model,) = card["models"]
    assert model["data"]["dataset"] == "Dataset901_Tiny"
    assert model["data"]["labels"] == {"background": 0, "large": 1, "small": 2}
    assert model["data"]["median_size"] == [20.0, 24.0, 16.0]  # SimpleITK's order of (16, 24, 20)
    assert model["data"]["fingerprint_sha256"] == hashlib.sha256(b"{}").hexdigest()
    assert model["plan"]["network"] == "nnunetv2_mamba.architectures.UMambaBot"
    assert row(text, "labels") == "background = 0, large = 1, small = 2"
    assert row(text, "patch") == "16 x 24 x 20 voxels at 1.0 x 1.0 x 1.0 mm, batches of 2"

    digest = hashlib.sha256((folder / "model/fold_1/checkpoint_final.pth").read_bytes()).hexdigest()
    assert row(text, "`fold_1/checkpoint_final.pth`") == f"`{digest}`"
    assert model["sha256"]["fold_1/checkpoint_final.pth"] == digest
    check_files(folder / "model", folder / "SHA256SUMS")


def test_it_says_what_trained_it_and_how_good_it_was(packaged):
    _, card, text = packaged()
    first, second = card["models"][0]["folds"]
    assert first["training"]["scan"] in ("cpu", "torch")  # the backend, as our trainers write it into checkpoints
    assert first["training"]["epochs"] == 1
    assert first["validation"] == {
        "cases": 3,
        "mean": {"Dice": 0.75},
        "labels": {"large": {"Dice": 0.5}, "small": {"Dice": 1.0}},  # JSON has no NaN, a float no 1e400
    }
    assert second["validation"] is None
    assert "Fold 0 on its 3 validation cases" in text
    assert row(text, "mean of the labels") == "Dice 0.75"


def test_a_validation_of_other_weights_is_said_to_be(model, packaged):
    """nnU-Net validates with the final checkpoint, whichever is packaged."""
    for fold in ("fold_0", "fold_1"):
        shutil.copy(model / fold / "checkpoint_final.pth", model / fold / "checkpoint_best.pth")
    said = "with checkpoint_final.pth, while checkpoint_best.pth is packaged"
    assert said in packaged(choices=Choices(checkpoint="checkpoint_best.pth"))[2]


def test_regions_have_their_names(model, packaged):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    rewrite_dataset(model, labels=labels, regions_class_order=[1, 2])
    summary = {**SUMMARY, "mean": {"(1, 2)": {"Dice": 0.25}, "2": {"Dice": 0.5}}}
    (model / "fold_0/validation/summary.json").write_text(json.dumps(summary))
    text = packaged()[2]
    assert (row(text, "whole"), row(text, "core")) == ("Dice 0.25", "Dice 0.5")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("newer", "expected"), [(3600, "Dice 0.5"), (1, "Dice 0.5, HD95 3.25"), (-3600, "Dice 0.5, HD95 3.25")]
)
def test_evaluate_s_measurements_are_preferred_where_they_are_of_the_last_training(
    zipped, newer, expected, model, packaged, tmp_path
):
    """``newer``: seconds from the evaluation to nnU-Net's summary."""
    evaluated = {**SUMMARY, "mean": {"1": {"Dice": 0.5, "HD95": 3.25}}, "foreground_mean": {"Dice": 0.5, "HD95": 3.25}}
    validation = model / "fold_0/validation"
    (validation / "evaluation.json").write_text(json.dumps(evaluated))
    for name, seconds in (("evaluation", 0), ("summary", newer)):
        os.utime(validation / f"{name}.json", (1_800_000_000 + seconds,) * 2)
    source = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", tmp_path, "model")) if zipped else model
    assert row(packaged(source)[2], "large") == expected


def test_a_validation_of_another_kind_is_named(model, packaged):
    (model / "fold_0/validation/summary.json").write_text('{"mean": {}}')
    with pytest.raises(ValueError, match=r"fold_0/validation/summary.json is not what nnU-Net or nnunetv2_mamba"):
        packaged()


def test_several_models_have_a_part_each(model, trained_model, packaged, tmp_path):
    packaged()
    write_context(Request(model, "flare", others=[trained_model.folder], folds=["0"]), tmp_path / "two")
    first, second = json.loads((tmp_path / "two/model_card.json").read_text())["models"]
    assert first["folds"][0]["validation"] and not second["folds"][0]["validation"]
    files = ["dataset.json", "fold_0/checkpoint_final.pth", "plans.json"]
    assert [list(one["sha256"]) for one in (first, second)] == [files, files]
    check_files(tmp_path / "two/model", tmp_path / "two/SHA256SUMS")


def test_names_of_strangers_are_text(model, packaged):
    rewrite_dataset(model, labels={"background": 0, "a|b\n# c": 1, "[x](http://y)<b>": 2})
    assert row(packaged()[2], "labels") == r"background = 0, a\|b\\n\# c = 1, \[x\](http://y)\<b\> = 2"


def test_a_measurement_is_added(packaged):
    folder, card, text = packaged()
    assert card["measured"] is None
    assert "were not measured" in text
    case = {"name": "case_7", "size": [20, 24, 16], "seconds": 1.5, "memory_mib": 812, "gpu_memory_mib": None}
    measured = {"engine": "podman version 4.3.1", "device": "the CPU", "input": "noise", "cases": [case]}
    add_measurement(folder, measured)
    assert json.loads((folder / "model_card.json").read_text()) == {**card, "measured": measured}
    written = (folder / "MODEL_CARD.md").read_text()
    assert "were not measured" not in written
    assert row(written, "case\\_7") == "20 x 24 x 16 | 1.5 | 812 | none"
