"""The finished trainings of a sweep as tables: scores as they were computed, and one with the models' cost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from nnunetv2_mamba.files import read_json_object, write_text
from nnunetv2_mamba.results.costs import median_costs
from nnunetv2_mamba.results.folds import COST, SUMMARY

from .training import Training

if TYPE_CHECKING:
    from nnunetv2_mamba.evaluation.noise_floor import NoiseFloor, Spread

SCORES = "results.csv"
_MODEL = ["dataset", "configuration", "plans", "trainer"]


def scores(trainings: Iterable[Training], folder: Path) -> pd.DataFrame:
    """Collect nnU-Net's Dice of every finished training, tidy: a row per label, and one for the foreground's mean."""
    rows = []
    for training in trainings:
        if training.finished(folder):
            content = read_json_object(training.folder(folder) / SUMMARY)
            dice = {label: metrics["Dice"] for label, metrics in content["mean"].items()}
            dice["foreground mean"] = content["foreground_mean"]["Dice"]
            rows += [(*_model(training), training.fold, training.seed, *of_label) for of_label in dice.items()]
    return pd.DataFrame(rows, columns=[*_MODEL, "fold", "seed", "label", "dice"])


def write_scores(table: pd.DataFrame, folder: Path) -> Path:
    """Write ``results.csv`` with what ``scores`` gives; the same results give the same bytes."""
    file = folder / SCORES
    write_text(file, table.to_csv(index=False, na_rep="nan", lineterminator="\n"))
    return file


def table_of_models(trainings: Iterable[Training], table: pd.DataFrame, folder: Path) -> str:
    """Write a Markdown table of what ``scores`` gives: Dice over finished folds and seeds, and the cost (medians).

    Mean Dice: over folds, of means over seeds, so that a fold with more seeds counts once, as in ``compare``.
    SD: standard deviations of a training's mean Dice, between seeds of the same fold and between folds. What a fold
    makes unknown, nnU-Net's NaN for a label that none of its cases has, is not told of the others alone.
    """
    costs: dict[tuple[str, ...], list[dict]] = {}
    for training in trainings:
        if training.finished(folder):
            costs.setdefault(_model(training), []).append(read_json_object(training.folder(folder) / COST))
    if not costs:
        return "no training is finished"
    means = table[table["label"] == "foreground mean"]
    noise = _noise(means)
    lines = [
        "| data set | configuration | plans | trainer "
        "| trainings | mean Dice | SD, seeds | SD, folds | parameters | GFLOP | s / epoch | memory |",
        "|---" * 12 + "|",
    ]
    for model, own in means.groupby(_MODEL, sort=False):
        dice = own.groupby("fold")["dice"].mean().mean() if own["dice"].notna().all() else None
        cost = median_costs(costs[model])
        memory = cost.get("peak_memory.allocated_bytes") or cost.get("peak_memory.process_bytes")  # of a GPU, if any
        lines.append(
            f"| {' | '.join(model)} | {len(own)} | {_known(dice, '.4f')} "
            f"| {_deviation(noise.seeds, model)} | {_deviation(noise.folds, model)} "
            f"| {_known(cost.get('parameters'), '.1f', ' M')} | {_known(cost.get('flops'), '.1f')} "
            f"| {_known(cost.get('seconds_per_epoch'), '.1f')} | {_known(memory, '.2f', ' GiB')} |"
        )
    return "\n".join(lines)


def _model(training: Training) -> tuple[str, ...]:
    return tuple(getattr(training, name) for name in _MODEL)


def _noise(means: pd.DataFrame) -> NoiseFloor:
    """Measure how much the mean Dice varies between trainings; a fold's number stands for its cases."""
    from nnunetv2_mamba.evaluation.noise_floor import noise_floor  # scipy, needed at the end only
    from nnunetv2_mamba.evaluation.trainings import Training as Validated

    found = {}
    for row in means.to_dict("records"):
        model = " ".join(row[name] for name in _MODEL)
        found[Validated(model, row["seed"], "", frozenset({str(row["fold"])}))] = row["dice"]
    return noise_floor(found)


def _deviation(spreads: dict[str, Spread], model: tuple[str, ...]) -> str:
    spread = spreads.get(" ".join(model))
    return "unknown" if spread is None or math.isnan(spread.deviation) else f"{spread.deviation:.4f}"


def _known(value: float | None, form: str, unit: str = "") -> str:
    return "unknown" if value is None else f"{value:{form}}{unit}"
