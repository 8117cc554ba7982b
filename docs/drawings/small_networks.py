"""The small networks of the study: the first fold's trainings and learning curves, and what a step costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunetv2_mamba.evaluation.noise_floor import noise_floor
from nnunetv2_mamba.evaluation.trainings import Training

from .plot import Plot, legend
from .results import results
from .svg import Drawing

_NNUNETS = {"nnUNetSmallPlans": "nnU-Net", "nnUNetResEncUNetSmallPlans": "nnU-Net, ResEnc"}
_NETWORKS = ("SegMamba", "MedSegMamba", "MSDKMamba", "UMambaBot", "UMamba2")
_MODELS = (*_NNUNETS.values(), *(network + twin for network in _NETWORKS for twin in ("NoMamba", "")))
_SCANS = ("raster", "bidirectional", "six_axes", "serpentine", "morton", "hilbert", "random")
_BY_PLANS = _NNUNETS | {f"nnUNetSegMambaSmallScan{scan.title().replace('_', '')}Plans": scan for scan in _SCANS}
# Where names stand in the picture of costs: so many pixels right of the dot and below it, and whether they end there
_NAMES = {
    "nnU-Net": (0, -9, "middle"),
    "nnU-Net, ResEnc": (-8, 5, "end"),
    "SegMamba": (0, -9, "middle"),
    "MedSegMamba": (-8, 5, "end"),
    "MSDKMamba": (0, 17, "middle"),
    "UMambaBot": (0, 17, "middle"),
    "UMamba2": (8, 4, "start"),
}
_Legend = Sequence[tuple[float, str, str]]
_ROW = 20  # pixels
_SMOOTHED = 5  # epochs
_LEGEND = ((70, "first", "without Mamba"), (200, "second", "with Mamba"))
_LEGEND_OF_MIXERS = ((30, "first", "identity or convolution"), (200, "second", "Mamba"), (280, "third", "Mamba-2"))


def trainings() -> Drawing:
    """Mean Dice of every training with Mamba and without, around their mean how far two of one network are apart."""
    picture = Drawing("Mean Dice of every training of the small networks, a row for each network")
    picture.text(10, 20, "Hippocampus, fold 0, 3000 iterations", style="bold")
    models = {model: _kind(model) for model in _MODELS}
    return _every_training(picture, models, _LEGEND, (0.83, 0.84, 0.85))


def mixers() -> Drawing:
    """Mean Dice of every training with another layer in Mamba's place."""
    picture = Drawing("Mean Dice of every training of the small networks, a row for each layer in Mamba's place")
    picture.text(10, 20, "Layers in Mamba's place, hippocampus, fold 0", style="bold")
    models = {}
    for network in _NETWORKS:
        models |= {f"{network}NoMamba": "first", f"{network}Conv": "first"}
        models |= {network: "third"} if network == "UMamba2" else {network: "second", f"{network}Mamba2": "third"}
    return _every_training(picture, models, _LEGEND_OF_MIXERS, (0.80, 0.82, 0.84, 0.86))


def scan_orders() -> Drawing:
    """Mean Dice of every training of SegMamba: along its own three paths, then along each other order."""
    picture = Drawing("Mean Dice of every training of the small SegMamba, a row for each scan order")
    picture.text(10, 20, "Scan orders of SegMamba, hippocampus, fold 0", style="bold")
    models = {"SegMambaNoMamba": "first"} | dict.fromkeys(("SegMamba", *_SCANS), "second")
    return _every_training(picture, models, _LEGEND, (0.83, 0.84, 0.85))


def _every_training(picture: Drawing, models: Mapping[str, str], explained: _Legend, ticks: Sequence[float]) -> Drawing:
    """Draw a row of dots for each model below a picture's heading, and around their mean how far two are apart.

    Args:
        picture: has its heading.
        models: the kind of dot of each.
        explained: what kinds there are.
        ticks: of the axis, which goes half a step further on both sides.
    """
    by_model = _of_the_first_fold()
    means = {
        Training(model, training["cost"]["seed"], "fold_0", frozenset(training["cases"])): _mean_dice(training)
        for model in models
        for training in by_model[model]
    }
    middle, half = np.mean([*means.values()]), noise_floor(means).limit / 2
    picture.text(10, 36, "A dot is a training. 95 in 100 pairs of trainings of one network")
    picture.text(10, 50, "are less far apart than the dashed lines, around the mean of all.")
    step = ticks[1] - ticks[0]
    plot = Plot(picture, 158, 62, 204, _ROW * len(models), (ticks[0] - step / 2, ticks[-1] + step / 2), (0, 1))
    plot.axes(ticks, (), "mean Dice of 40 cases")
    _, top, _, bottom = plot.edges
    for edge in (middle - half, middle + half):
        x = round(plot.x(edge), 1)
        picture.line([(x, top), (x, bottom)], "line dashed")
    rows = {model: top + _ROW * (row + 0.5) for row, model in enumerate(models)}
    for model, y in rows.items():
        picture.text(152, y + 4, model, "end")
    for training, value in means.items():
        picture.dot(round(plot.x(value), 1), rows[training.model], models[training.model])
    legend(picture, bottom + 48, explained)
    return picture


def curves() -> Drawing:
    """Validation Dice of patches while they train, a curve for each network."""
    picture = Drawing("Validation Dice of patches over iterations, a curve for each of the small networks")
    picture.text(10, 20, "Hippocampus, fold 0, mean of the trainings", style="bold")
    picture.text(10, 36, f"Validation Dice of patches, mean of {_SMOOTHED} epochs of 50 iterations")
    plot = Plot(picture, 38, 50, 318, 200, (0, 3000), (0, 0.9))
    plot.axes((0, 1000, 2000, 3000), (0, 0.2, 0.4, 0.6, 0.8), "iterations of 2 patches")
    by_model = _of_the_first_fold()
    for model in _MODELS:
        found = by_model[model]
        mean = np.mean([training["curve"] for training in found], axis=0)
        smooth = np.convolve(mean, np.ones(_SMOOTHED) / _SMOOTHED, "valid")
        plot.curve(50 * np.arange(_SMOOTHED, len(mean) + 1), smooth, _kind(model))
    legend(picture, 298, _LEGEND)
    return picture


def cost_and_dice() -> Drawing:
    """Mean Dice over the time of a step; from each network's twin without Mamba a line leads to the network."""
    dice = {model: _mean_over_folds(found) for model, found in _by_model().items() if model in _MODELS}
    seconds = {}
    for row in results("small_networks_step_time"):
        trainer, plans = row["trainer"].split("@")
        seconds[_model(trainer, plans)] = row["seconds_per_step"]
    picture = Drawing("Mean Dice over seconds per training step, a point for each of the small networks")
    picture.text(10, 20, "Hippocampus, mean of five folds", style="bold")
    picture.text(10, 36, "Lines lead from a network's twin without Mamba to the network.")
    picture.text(10, 54, "mean Dice")
    plot = Plot(picture, 46, 62, 318, 250, (0, 0.3), (0.838, 0.858))
    plot.axes((0, 0.1, 0.2, 0.3), (0.84, 0.845, 0.85, 0.855), "seconds per step, one CPU core")

    def point(model: str) -> tuple[float, float]:
        return round(plot.x(seconds[model]), 1), round(plot.y(dice[model]), 1)

    for network in _NETWORKS:
        picture.line([point(f"{network}NoMamba"), point(network)])
    for model in _MODELS:
        picture.dot(*point(model), _kind(model))
    for model, (right, down, anchor) in _NAMES.items():
        x, y = point(model)
        picture.text(x + right, y + down, model, anchor)
    legend(picture, 362, _LEGEND)
    return picture


def _by_model() -> dict[str, list[Mapping]]:
    """The trainings, by the network's name in the pictures."""
    found: dict[str, list[Mapping]] = {}
    for training in results("small_networks").values():
        found.setdefault(_model(training["cost"]["trainer"], training["cost"]["plans"]), []).append(training)
    return found


def _of_the_first_fold() -> dict[str, list[Mapping]]:
    return {
        model: [training for training in found if training["cost"]["fold"] == 0] for model, found in _by_model().items()
    }


def _model(trainer: str, plans: str) -> str:
    """The trainer's network; of nnU-Net's, and along another scan order, what the plans say."""
    return _BY_PLANS.get(plans, trainer.removeprefix("nnUNetTrainer"))


def _mean_dice(training: Mapping) -> float:
    return float(np.mean([own["dice"] for labels in training["cases"].values() for own in labels.values()]))


def _mean_over_folds(trainings: list[Mapping]) -> float:
    """Mean of the folds, however many seeds each has."""
    folds: dict[int, list[float]] = {}
    for training in trainings:
        folds.setdefault(training["cost"]["fold"], []).append(_mean_dice(training))
    return float(np.mean([np.mean(of_seeds) for of_seeds in folds.values()]))


def _kind(model: str) -> str:
    return "second" if model in _NETWORKS else "first"


PICTURES = {
    "trainings": trainings,
    "curves": curves,
    "cost_and_dice": cost_and_dice,
    "mixers": mixers,
    "scan_orders": scan_orders,
}
