"""The course of a self-distillation: one record per epoch, as lines for the log and as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_mamba.losses.distillation_statistics import EpochMeans

Record = dict[str, Any]


def record(
    epoch: int, weight: float, scales: Sequence[int], students: Sequence[int], foreground: slice, means: EpochMeans
) -> Record:
    """Return the record of an epoch in plain numbers, which a checkpoint can hold.

    Args:
        epoch: its index.
        weight: the distillation weight at its end.
        scales: the scale of each entry of ``means.segmentation``; 0 is full resolution.
        students: the scale of each entry of what ``means`` says about students.
        foreground: the classes to average the Dice over.
        means: what the epoch's statistics say.
    """
    losses = zip(scales, means.segmentation.tolist(), strict=True)
    rows: dict[int, Record] = {scale: {"segmentation": loss} for scale, loss in losses}
    dice = torch.nanmean(means.dice[..., foreground], dim=-1)
    for index, scale in enumerate(students):
        rows[scale] |= {
            "distillation": means.distillation[index].item(),
            "gated": means.gated[index].item(),
            "teacher_dice": dice[index, 0].item(),
            "student_dice": dice[index, 1].item(),
        }
    return {"epoch": epoch, "weight": weight, "scales": rows}


def lines(entry: Record) -> list[str]:
    """Return one line per scale, for the training log."""
    names = {
        "segmentation": "segmentation loss",
        "distillation": "distillation loss",
        "gated": "share gated",
        "teacher_dice": "teacher Dice",
        "student_dice": "student Dice",
    }
    return [
        f"Scale {scale}: " + ", ".join(f"{names[key]} {value:.4f}" for key, value in row.items())
        for scale, row in entry["scales"].items()
    ]


def plot(history: Sequence[Record], path: Path) -> None:
    """Write a PNG with one panel per quantity and one line per scale."""
    with matplotlib.style.context("default"):  # nnU-Net's own figures change the defaults
        figure = Figure(figsize=(12, 8), layout="constrained")
        (segmentation, distillation), (gated, dice) = figure.subplots(2, 2)
        _draw(segmentation, "segmentation loss", history, "segmentation")
        _draw(distillation, "distillation loss (unweighted)", history, "distillation")
        epochs = [entry["epoch"] for entry in history]
        weight = distillation.twinx()
        weight.plot(epochs, [entry["weight"] for entry in history], color="grey", linestyle="dotted")
        weight.set(ylabel="weight (dotted)", ylim=(0, None))
        _draw(gated, "share of voxels gated", history, "gated")
        gated.set_ylim(0, 1)
        _draw(dice, "Dice at the scale of the student (teacher dashed)", history, "student_dice")
        _draw(dice, None, history, "teacher_dice", linestyle="dashed")
        figure.savefig(path, dpi=100)


def _draw(panel: Axes, title: str | None, history: Sequence[Record], key: str, linestyle: str = "solid") -> None:
    scales = sorted({scale for entry in history for scale, row in entry["scales"].items() if key in row})
    epochs = [entry["epoch"] for entry in history]
    for scale in scales:
        values = [entry["scales"].get(scale, {}).get(key, math.nan) for entry in history]
        label = f"scale {scale}" if title else None
        panel.plot(epochs, values, color=f"C{scale}", linestyle=linestyle, marker=".", label=label)
    if title:
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        if scales:
            panel.legend()
