"""The finished trainings of a sweep as tables: scores as they were computed, and a summary with the cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_mamba.files import read_json_object, write_text
from nnunetv2_mamba.results.folds import COST, SUMMARY

from .training import Training

SCORES = "results.csv"
_MODEL = ["dataset", "configuration", "plans", "trainer"]


def scores(trainings: Iterable[Training], folder: Path) -> pd.DataFrame:
    """nnU-Net's Dice of every finished training, tidy: a row per label, and one for the mean of the foreground."""
    rows = [_scores(training, folder) for training in trainings if training.finished(folder)]
    return pd.DataFrame([row for group in rows for row in group], columns=[*_MODEL, "fold", "seed", "label", "dice"])


def write_scores(trainings: Iterable[Training], folder: Path) -> Path:
    """Write ``results.csv``; the same results give the same bytes."""
    file = folder / SCORES
    write_text(file, scores(trainings, folder).to_csv(index=False, na_rep="nan", lineterminator="\n"))
    return file


def summary(trainings: Iterable[Training], folder: Path) -> str:
    """A Markdown table: Dice over the finished folds and seeds of each model, and its cost (medians)."""
    trainings = [training for training in trainings if training.finished(folder)]
    if not trainings:
        return "no run is finished"
    table = scores(trainings, folder)
    dice = table[table["label"] == "foreground mean"].groupby(_MODEL, sort=False)["dice"]
    costs = pd.DataFrame([_cost(training, folder) for training in trainings]).groupby(_MODEL, sort=False).median()
    lines = [
        "| data set | configuration | plans | trainer | runs | mean Dice | parameters | GFLOP | s / epoch | memory |",
        "|---" * 10 + "|",
    ]
    for model, values in dice:
        cost = costs.loc[model]
        lines.append(
            f"| {' | '.join(model)} | {len(values)} | {values.mean():.4f} "
            f"| {_known(cost['parameters'] / 1e6, '.1f', ' M')} | {_known(cost['flops'] / 1e9, '.1f')} "
            f"| {_known(cost['seconds_per_epoch'], '.1f')} | {_known(cost['memory'] / 2**30, '.2f', ' GiB')} |"
        )
    return "\n".join(lines)


def _scores(training: Training, folder: Path) -> list[tuple[Any, ...]]:
    content = read_json_object(training.folder(folder) / SUMMARY)
    key = (training.dataset, training.configuration, training.plans, training.trainer, training.fold, training.seed)
    labels = [(*key, label, metrics["Dice"]) for label, metrics in content["mean"].items()]
    return [*labels, (*key, "foreground mean", content["foreground_mean"]["Dice"])]


def _cost(training: Training, folder: Path) -> dict[str, Any]:
    cost = read_json_object(training.folder(folder) / COST)
    peak = cost.get("peak_memory") or {}
    numbers = {name: cost.get(name) for name in ("parameters", "flops", "seconds_per_epoch")}
    numbers["memory"] = peak.get("allocated_bytes") or peak.get("process_bytes")  # of the GPU where there is one
    model = {name: getattr(training, name) for name in _MODEL}
    return model | {name: float("nan") if value is None else float(value) for name, value in numbers.items()}


def _known(value: float, form: str, unit: str = "") -> str:
    return "unknown" if math.isnan(value) else f"{value:{form}}{unit}"
