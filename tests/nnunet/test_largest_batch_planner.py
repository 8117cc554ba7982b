"""nnU-Net's search takes the patch and the batch that are said to fit."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from nnunetv2_mamba.nnunet.largest_batch_planner import MIN_BATCH, LargestBatchPlanner

SHAPE = np.array([128, 128, 128])
VOXELS = 1e9  # of a data set so large that it limits nothing


class Search:
    def __init__(self, fits, share=0.05, multiple=1):
        self.fits, self.share, self.multiple, self.tried = fits, share, multiple, []

    def fitting(self, patch):
        return tuple(-(-int(size) // self.multiple) * self.multiple for size in patch)

    def largest_batch(self, patch):
        self.tried.append(patch)
        return self.fits(patch)

    def architecture(self, patch):
        return {"for": list(patch)}

    def share_of_data_set(self, n_voxels):
        return self.share


class Planner(LargestBatchPlanner):
    answer: Search

    def search_of(self, configuration, spacing):
        self.asked = (configuration, spacing)
        return self.answer


@pytest.fixture
def planner(tmp_path, monkeypatch):
    raw, preprocessed = tmp_path / "raw" / "Dataset902_Invented", tmp_path / "preprocessed" / "Dataset902_Invented"
    raw.mkdir(parents=True)
    preprocessed.mkdir(parents=True)
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "dataset": {}}
    (raw / "dataset.json").write_text(json.dumps(description))
    (preprocessed / "dataset_fingerprint.json").write_text(json.dumps({"median_relative_size_after_cropping": 1.0}))
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    monkeypatch.setenv("nnUNet_preprocessed", str(preprocessed.parent))

    def plan(answer: Search, identifier: str = "xPlans_3d_fullres", n_axes: int = 3, memory: float = 24) -> dict:
        made = Planner(902, memory, "DefaultPreprocessor", "xPlans")
        made.answer = answer
        plan = made.get_plans_for_configuration(np.ones(n_axes), SHAPE[:n_axes], identifier, VOXELS, {})
        return plan | {"asked": made.asked}

    return plan


@pytest.mark.parametrize("memory", [8, 24])
@pytest.mark.parametrize("batch", [MIN_BATCH, 3, 7, 12])
def test_the_batch_is_the_largest_that_fits(planner, batch, memory):
    plan = planner(Search(lambda _: batch), memory=memory)
    assert plan["batch_size"] == batch and list(plan["patch_size"]) == [128, 128, 128]
    assert plan["architecture"] == {"for": [128, 128, 128]}


def test_the_patch_is_made_smaller_until_a_batch_fits(planner):
    search = Search(lambda patch: MIN_BATCH if math.prod(patch) <= 64**3 else 0)
    plan = planner(search)
    assert plan["batch_size"] == MIN_BATCH and 32**3 < math.prod(plan["patch_size"]) <= 64**3
    sizes = [math.prod(patch) for patch in search.tried]
    assert sizes == sorted(sizes, reverse=True) and all(type(size) is int for size in search.tried[0])


def test_a_batch_holds_no_more_of_the_data_set_than_its_share(planner):
    share = 4 * 128**3 / VOXELS
    assert planner(Search(lambda _: 100, share))["batch_size"] == 4
    assert planner(Search(lambda _: 100, share / 100))["batch_size"] == MIN_BATCH


def test_a_patch_that_the_network_does_not_take_is_made_larger_and_its_batch_smaller(planner):
    share = 8 * 128**3 / VOXELS
    plan = planner(Search(lambda _: 100, share, multiple=160))
    assert plan["patch_size"] == (160, 160, 160) and plan["architecture"] == {"for": [160, 160, 160]}
    assert plan["batch_size"] == round(8 * 128**3 / 160**3)
    assert planner(Search(lambda _: 3, share, multiple=160))["batch_size"] == 3


@pytest.mark.parametrize("max_pool", [2, 3, 4])
def test_thick_slices_make_no_further_stages(max_pool):
    """Of an axis that is halved later than the others, alone."""
    strides, kernels, patch = LargestBatchPlanner.topology(
        SimpleNamespace(UNet_featuremap_min_edge_length=4), (2, 1, 1), (96, 128, 128), max_pool
    )
    assert strides == ((1, 1, 1), (1, 2, 2), *[(2, 2, 2)] * (max_pool - 1))
    assert kernels == ((1, 3, 3), *[(3, 3, 3)] * max_pool) and patch == (96, 128, 128)


@pytest.mark.parametrize(
    ("identifier", "n_axes", "configuration"),
    [("nnUNetPlans_2d", 2, "2d"), ("x2dPlans_3d_lowres", 3, "3d_lowres"), ("xPlans_3d_fullres", 3, "3d_fullres")],
)
def test_the_search_is_of_the_configuration(planner, identifier, n_axes, configuration):
    assert planner(Search(lambda _: 2), identifier, n_axes)["asked"] == (configuration, (1.0,) * n_axes)
