"""Metrics of two masks: against geometry, against MONAI's own functions and against ITK's distance transform."""

import re
import runpy

import numpy as np
import pytest
import SimpleITK
import torch
from documentation import ROOT
from masks import ball, blobs, box
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from monai.metrics.utils import get_mask_edges

from nnunetv2_mamba.cli import main
from nnunetv2_mamba.evaluation import mask_pair, metrics
from nnunetv2_mamba.evaluation.mask_pair import MaskPair
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.probabilities import LabelProbability

SPACINGS = [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (0.5, 0.8, 2.0)]
NAMES = ("dice", "iou", "volume_similarity", "hd95", "assd", "nsd")  # that are checked here by number


def measure(reference, prediction, spacing, **options):
    diagonal = float(np.linalg.norm(np.multiply(reference.shape, spacing)))
    values = metrics.measure_masks(MaskPair(reference, prediction, spacing, diagonal), MetricOptions(**options))
    return {name: values[name] for name in NAMES}


def summarized(directions, tolerance):
    """The metrics of two directions' distances."""
    distances = np.concatenate(directions)
    hd95 = max(np.percentile(direction, 95) for direction in directions)
    return {"hd95": hd95, "assd": distances.mean(), "nsd": (distances <= tolerance).mean()}


# --- against geometry


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("margin", [(2, 2, 2), (1, 3, 2), (0, 4, 1)])
def test_a_box_in_a_larger_box(spacing, margin):
    """Exact: a voxel outside of a box is as far from it as its excess over the sides; one inside, as the next side."""
    spacing, margin, low, high = (np.array(v) for v in (spacing, margin, (6, 7, 8), (14, 13, 18)))
    inner, outer = box((20, 20, 26), low, high), box((20, 20, 26), low - margin, high + margin)
    on_inner = np.argwhere(inner & ~box(inner.shape, low + 1, high - 1))
    on_outer = np.argwhere(outer & ~box(outer.shape, low - margin + 1, high + margin - 1))
    excess = np.maximum(np.maximum(low - on_outer, on_outer - (high - 1)), 0)
    depth = np.minimum(on_inner - (low - margin), high + margin - 1 - on_inner)
    directions = [np.linalg.norm(excess * spacing, axis=1), (depth * spacing).min(axis=1)]
    measured = measure(inner, outer, tuple(spacing), nsd_tolerance=1.6)
    assert measured == pytest.approx(
        {
            "dice": 2 * inner.sum() / (inner.sum() + outer.sum()),
            "iou": inner.sum() / outer.sum(),
            "volume_similarity": 2 * inner.sum() / (inner.sum() + outer.sum()),
            **summarized(directions, 1.6),
        },
        rel=1e-6,
    )


def test_a_shifted_plate():
    """By hand: 10 x 10 x 1 voxels of 2 mm thickness, one plate 3 voxels above the other: all distances are 6 mm."""
    lower, upper = box((12, 10, 10), (2, 0, 0), (3, 10, 10)), box((12, 10, 10), (5, 0, 0), (6, 10, 10))
    measured = measure(lower, upper, (2.0, 1.0, 1.0), nsd_tolerance=5.9)
    assert measured == {"dice": 0, "iou": 0, "volume_similarity": 1, "hd95": 6, "assd": 6, "nsd": 0}
    assert measure(lower, upper, (2.0, 1.0, 1.0), nsd_tolerance=6)["nsd"] == 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_ball_in_a_larger_ball(spacing):
    """Within what voxels can do to it.

    A surface voxel of a ball lies at most the largest spacing h inside of the sphere. From the point of the sphere
    above it to the other ball's nearest surface voxel it is at most one voxel diagonal s further than to that sphere:
    walking along voxel faces from a voxel within s/2 inside of that sphere to one within s/2 outside of it, one comes
    through a surface voxel. So distances are from d - h to d + h + s. The cubes of a ball's voxels cover the ball that
    is s/2 smaller and lie in the one s/2 larger, which bounds the volumes.
    """
    small, large = 9.0, 15.0
    centre = [int(large / s) + 2 for s in spacing]
    shape = [2 * c + 1 for c in centre]
    inner, outer = (ball(shape, centre, radius, spacing) for radius in (small, large))
    h, s, d = max(spacing), float(np.linalg.norm(spacing)), large - small

    measured = measure(inner, outer, spacing, nsd_tolerance=d + h + s)
    assert d - h <= measured["assd"] <= measured["hd95"] <= d + h + s
    assert measured["nsd"] == 1
    assert measure(inner, outer, spacing, nsd_tolerance=d - h - 1e-3)["nsd"] == 0
    least, most = ([(r + change) ** 3 for r in (small, large)] for change in (-s / 2, s / 2))
    for name, ratio in {"dice": lambda i, o: 2 * i / (i + o), "iou": lambda i, o: i / o}.items():
        assert ratio(least[0], most[1]) <= measured[name] <= ratio(most[0], least[1])
    assert measured["volume_similarity"] == pytest.approx(measured["dice"])


# --- against libraries


def by_monai(reference, prediction, spacing, tolerance):
    """MONAI's functions, each on the whole image."""
    y_pred, y = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
    whole = {"include_background": True, "spacing": list(spacing)}
    return {
        "hd95": compute_hausdorff_distance(y_pred, y, percentile=95, **whole).item(),
        "assd": compute_average_surface_distance(y_pred, y, symmetric=True, **whole).item(),
        "nsd": compute_surface_dice(y_pred, y, class_thresholds=[tolerance], **whole).item(),
    }


def by_itk(reference, prediction, spacing, tolerance):
    """ITK's contours and exact distance transform, with a border of background, which ITK does not assume."""
    contours = []
    for mask in (reference, prediction):
        image = SimpleITK.GetImageFromArray(np.pad(mask, 1).astype(np.uint8))
        image.SetSpacing(spacing[::-1])
        contours.append(SimpleITK.LabelContour(image, fullyConnected=False))
    maps = [
        SimpleITK.GetArrayFromImage(SimpleITK.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True))
        for c in contours
    ]
    arrays = [SimpleITK.GetArrayFromImage(contour) > 0 for contour in contours]
    # ITK's map is negative inside of what it measures the distance from
    return summarized([np.maximum(maps[0], 0)[arrays[1]], np.maximum(maps[1], 0)[arrays[0]]], tolerance)


@pytest.mark.parametrize("library", [by_monai, by_itk])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", [0, 1])
def test_agreement(library, spacing, seed):
    reference, prediction = blobs((20, 24, 28), seed), blobs((20, 24, 28), seed + 10)
    assert reference[0].any() and prediction[-1].any()  # up to the border
    tolerance = 1.3  # no distance on these grids, so that rounding decides nothing
    measured = measure(reference, prediction, spacing, nsd_tolerance=tolerance)
    expected = library(reference, prediction, spacing, tolerance)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_agreement_in_a_plane():
    reference, prediction = blobs((40, 50), 3), blobs((40, 50), 4)
    measured = measure(reference, prediction, (0.7, 1.9), nsd_tolerance=1.3)
    expected = by_monai(reference, prediction, (0.7, 1.9), 1.3)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_cropping_changes_nothing(spacing):
    """Tightly, around both masks, at the border of the image and far from it."""
    for shift in (0, 9):
        reference, prediction = (np.zeros((32, 34, 36), dtype=bool) for _ in range(2))
        reference[shift : shift + 12, :14, 5:20] = blobs((12, 14, 15), 5)
        prediction[shift : shift + 12, :14, 5:20] = blobs((12, 14, 15), 6)
        voxels = np.argwhere(reference | prediction)
        crop = tuple(slice(a, b + 1) for a, b in zip(voxels.min(0), voxels.max(0), strict=True))
        assert reference[crop].size < reference.size / 8
        whole = measure(reference, prediction, spacing)
        assert measure(reference[crop], prediction[crop], spacing) == whole


# --- single voxels and none


def test_one_voxel():
    one, other = box((9, 9, 9), (4, 4, 4), (5, 5, 5)), box((9, 9, 9), (4, 7, 8), (5, 8, 9))
    assert measure(one, one, (1, 1, 1)) == {
        "dice": 1, "iou": 1, "volume_similarity": 1, "hd95": 0, "assd": 0, "nsd": 1
    }  # fmt: skip
    assert measure(one, other, (1, 1, 1)) == {
        "dice": 0, "iou": 0, "volume_similarity": 1, "hd95": 5, "assd": 5, "nsd": 0
    }  # fmt: skip


def test_an_empty_mask_never_scores():
    empty, full = np.zeros((3, 4, 12), dtype=bool), np.ones((3, 4, 12), dtype=bool)
    zeros = dict.fromkeys(("dice", "iou", "volume_similarity", "nsd"), 0)
    for pair in ((empty, full), (full, empty)):
        assert measure(*pair, (1, 1, 1)) == {**zeros, "hd95": np.inf, "assd": np.inf}
        assert measure(*pair, (1, 1, 1), empty_distance="diagonal") == {**zeros, "hd95": 13, "assd": 13}
        assert measure(*pair, (1, 1, 1), nsd_tolerance=1e6)["nsd"] == 0
    assert all(np.isnan(value) for value in measure(empty, empty, (1, 1, 1)).values())


def test_a_spacing_as_rounded_in_a_file_is_within_the_tolerance():
    """float32(0.7) * 1.0000001 mm between neighbours is 0.7 mm."""
    lower, upper = box((3, 4, 4), (0, 0, 0), (1, 4, 4)), box((3, 4, 4), (1, 0, 0), (2, 4, 4))
    spacing = float(np.nextafter(np.float32(0.7), np.float32(1)))
    assert spacing > 0.7
    assert measure(lower, upper, (spacing, 5, 5), nsd_tolerance=0.7)["nsd"] == 1
    assert measure(lower, upper, (0.7001, 5, 5), nsd_tolerance=0.7)["nsd"] == 0
    assert measure(lower, upper, (spacing, 5, 5), nsd_tolerance=0)["nsd"] == 0


@pytest.mark.parametrize("options", [{"nsd_tolerance": -1}, {"nsd_tolerance": np.nan}, {"nsd_tolerance": np.inf}])
def test_no_such_tolerance(options):
    with pytest.raises(ValueError, match="tolerance"):
        MetricOptions(**options)


def test_no_such_distance():
    with pytest.raises(ValueError, match="'inf' or 'diagonal', not 'zero'"):
        MetricOptions(empty_distance="zero")


# --- of every metric


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_perfect_prediction_has_the_best_value_and_a_missing_one_does_not(metric):
    mask, empty = box((6, 6, 6), (1, 2, 2), (4, 5, 5)), np.zeros((6, 6, 6), dtype=bool)
    pairs = [
        MaskPair(*pair, (1.0, 2.0, 1.0), 15.0, probability=LabelProbability(pair[1].ravel() * 1.0, pair[0].ravel()))
        for pair in ((mask, mask), (mask, empty), (empty, mask), (empty, empty))
    ]
    perfect, missing, invented, absent = (metric.value(pair, MetricOptions()) for pair in pairs)
    assert perfect == metric.best and np.isnan(absent)
    if metric.name == "pr_auc":  # nothing to be recalled, in no model
        assert np.isnan(invented)
        invented = missing
    for value in (missing, invented):
        assert value > metric.best if metric.lower_is_better else value < metric.best


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_it_is_named_in_the_helps_and_in_the_documentation(metric, capsys):
    """Of ``evaluate`` by its title, of ``compare`` by its name; the pages are filled by the hook of mkdocs.yml."""
    for verb, text in (("evaluate", metric.title), ("compare", metric.name)):
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        assert text in " ".join(capsys.readouterr().out.split())
    filled = runpy.run_path(str(ROOT / "mkdocs_registry.py"))["on_page_markdown"]
    for page, text in (("evaluation", metric.title), ("comparing", f"`{metric.name}`")):
        assert text in filled((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))


def test_the_rule_for_one_empty_mask_in_words():
    for distance, words in (("inf", "infinite"), ("diagonal", "the diagonal of the image in mm")):
        text = metrics.rule_for_one_empty(MetricOptions(empty_distance=distance))
        assert re.fullmatch(rf"in one image only: dice, iou, .*nsd.* are 0, hd95.* assd are {words}.*", text)


def test_surface_distances_are_computed_once_and_only_where_they_are_used(monkeypatch):
    calls = []
    monkeypatch.setattr(mask_pair, "get_mask_edges", lambda *a, **k: calls.append(a) or get_mask_edges(*a, **k))
    mask = box((6, 6, 6), (1, 2, 2), (4, 5, 5))
    pair = MaskPair(mask, mask, (1, 1, 1), 1.0)
    METRICS["dice"].value(pair, MetricOptions())
    assert not calls
    metrics.measure_masks(pair, MetricOptions())
    assert len(calls) == 1
