"""What only a run shows of a model is found while it is packaged, in one line."""

import json
import os
import shutil

import pytest
import SimpleITK

from nnunetv2_mamba._register import DISCOVERY
from nnunetv2_mamba.cli import main
from nnunetv2_mamba.packaging import trial
from nnunetv2_mamba.packaging.case_predictor import CasePredictor
from nnunetv2_mamba.packaging.inference_settings import Choices, InferenceSettings
from nnunetv2_mamba.packaging.tile_predictor import TilePredictor
from nnunetv2_mamba.packaging.trial import try_model


@pytest.fixture(autouse=True)
def our_trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", DISCOVERY)


@pytest.fixture
def model(trained_model, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(trained_model.folder, tmp_path / "model")


def settings(folds=("0",), **choices):
    return InferenceSettings("flare", n_channels=4, choices=Choices(folds, **choices))


def change(model, function):
    plans = json.loads((model / "plans.json").read_text())
    function(plans, plans["configurations"]["3d_fullres"])
    (model / "plans.json").write_text(json.dumps(plans))


def schemes(name, **intensities):
    def spoil(plans, configuration):
        configuration["normalization_schemes"] = [name] * 4
        plans["foreground_intensity_properties_per_channel"] = {str(channel): intensities for channel in range(4)}

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda plans, it: it.update(patch_size=[18, 16, 16]),
            "ValueError: .* patches of 18 x 16 x 16 voxels: they must be multiples of 4 x 4 x 4",
        ),
        (schemes("CTNormalization"), "KeyError: 'mean"),
        (schemes("CTNormalization", mean="a", std=1, percentile_00_5=0, percentile_99_5=1), "Error: "),
        (schemes("ImageNormalization"), "TypeError: Can't instantiate abstract class"),
        (lambda plans, it: it.update(use_mask_for_norm=["yes"] * 4), "AssertionError"),
        (lambda plans, it: it["resampling_fn_data_kwargs"].update(order="x"), "Error: "),
        (lambda plans, it: it["resampling_fn_seg_kwargs"].update(order=99), "Error: "),
        (lambda plans, it: it["resampling_fn_probabilities_kwargs"].update(order="x"), "Error: "),
        (
            lambda plans, it: it.update(spacing=[1e-9, 1, 1]),
            r"'spacing' \[1e-09, 1, 1\] does not fit the training data",
        ),
        (lambda plans, it: it.update(spacing=[1, 1, 1000]), r"'spacing' .* does not fit"),
        (lambda plans, it: plans.update(transpose_forward=[1, 2, 0]), "does not undo .transpose_forward."),
    ],
    ids=range(11),
)
def test_plans_that_cannot_be_run_are_refused(model, spoil, message):
    change(model, spoil)
    with pytest.raises(ValueError, match=f"^THE MODEL/plans.json: .*{message}") as caught:
        try_model(model, settings(), "THE MODEL")
    assert "\n" not in str(caught.value)


def test_patches_that_take_all_memory_or_hours_are_refused_before(model, monkeypatch):
    monkeypatch.setattr(CasePredictor, "segment", None)
    monkeypatch.setattr(trial, "free_memory", lambda: 16 * 2**30)
    change(model, lambda plans, it: it.update(patch_size=[1024, 512, 512]))
    with pytest.raises(ValueError, match=r"a patch of 1024 x 512 x 512 needs about [0-9]+\.. GiB.* 16.0 GiB are free"):
        try_model(model, settings(), "THE MODEL")
    monkeypatch.setattr(trial, "_MOST_FLOPS", 1e8)
    change(model, lambda plans, it: it.update(patch_size=[32, 32, 32]))
    with pytest.raises(ValueError, match=r"takes [0-9]e\+[0-9]+ operations, more than the 1e\+08"):
        try_model(model, settings(), "THE MODEL")


def test_a_small_case_runs_one_patch_of_one_fold_on_the_axes_of_the_training_data(model, monkeypatch):
    """The other folds' weights are checked, too."""
    passes, shapes = [], []
    segment, predict = CasePredictor.segment, TilePredictor._internal_maybe_mirror_and_predict

    def look(self, files, *arguments, **named):
        shapes.append([SimpleITK.ReadImage(file).GetSize() for file in files])
        result = segment(self, files, *arguments, **named)
        shapes.append(result.image.GetSize())
        return result

    monkeypatch.setattr(CasePredictor, "segment", look)
    monkeypatch.setattr(
        TilePredictor, "_internal_maybe_mirror_and_predict", lambda *a: passes.append(a[1].shape) or predict(*a)
    )
    axes = {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}
    change(model, lambda plans, it: plans.update(axes, original_median_spacing_after_transp=[2.0, 1, 1]))
    try_model(model, settings(("0", "1"), time_budget=60.0), "THE MODEL")
    patch = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]["patch_size"]
    assert passes == [(1, 4, *patch)]
    # 5 of 1.6 mm, 11 and 12 of 0.8 mm; the first is the second of the file, the last in ITK's order but one
    assert shapes == [[(11, 5, 12)] * 4, (11, 5, 12)]
    (model / "fold_1/checkpoint_final.pth").write_bytes(b"")
    with pytest.raises(ValueError, match="fold_1/checkpoint_final.pth is damaged"):
        try_model(model, settings(("0", "1")), "THE MODEL")


def test_the_scan_is_the_containers_whatever_this_user_asks_for(model, monkeypatch):
    asked = {"NNUNETV2_MAMBA_SCAN": "triton", "nnUNet_compile": "1"}
    for key, value in asked.items():
        monkeypatch.setenv(key, value)
    try_model(model, settings(), "THE MODEL")
    assert {key: os.environ[key] for key in asked} == asked


def test_package_says_why_in_one_line_and_leaves_nothing(model, tmp_path, capsys):
    change(model, schemes("CTNormalization"))
    assert main(["package", str(model), "--for", "flare", "-o", str(tmp_path / "context")]) == 1
    *warnings, line = capsys.readouterr().err.splitlines()
    assert line == (
        f"nnunetv2_mamba package: {model}/plans.json: a patch of noise cannot be segmented with it: KeyError: 'mean'"
    )
    assert all("was trained with other plans than plans.json" in warning for warning in warnings)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
