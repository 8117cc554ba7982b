"""The finished runs of a sweep as tables: scores as they were computed, and a summary with the cost beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from .run import COST, Run

SCORES = "results.csv"
_MODEL = ["dataset", "configuration", "plans", "trainer"]


def scores(runs: Iterable[Run], folder: Path) -> pd.DataFrame:
    """nnU-Net's Dice of every finished run, tidy: a row per label, and one for the mean of the foreground."""
    rows = [_scores(run, folder) for run in runs if run.finished(folder)]
    return pd.DataFrame([row for group in rows for row in group], columns=[*_MODEL, "fold", "seed", "label", "dice"])


def write_scores(runs: Iterable[Run], folder: Path) -> Path:
    """Write ``results.csv``; the same results give the same bytes."""
    file = folder / SCORES
    scores(runs, folder).to_csv(file, index=False, na_rep="nan", lineterminator="\n")
    return file


def summary(runs: Iterable[Run], folder: Path) -> str:
    """A Markdown table: Dice over the finished folds and seeds of each model, and its cost (medians)."""
    runs = [run for run in runs if run.finished(folder)]
    if not runs:
        return "no run is finished"
    table = scores(runs, folder)
    dice = table[table["label"] == "foreground mean"].groupby(_MODEL, sort=False)["dice"]
    costs = pd.DataFrame([_cost(run, folder) for run in runs]).groupby(_MODEL, sort=False).median(numeric_only=True)
    lines = [
        "| data set | configuration | plans | trainer | runs | mean Dice | parameters | GFLOP | s / epoch | memory |",
        "|---" * 10 + "|",
    ]
    for model, values in dice:
        cost = costs.loc[model]
        lines.append(
            f"| {' | '.join(model)} | {len(values)} | {values.mean():.4f} | {cost['parameters'] / 1e6:.1f} M "
            f"| {cost['flops'] / 1e9:.1f} | {cost['seconds_per_epoch']:.1f} | {cost['memory'] / 2**30:.2f} GiB |"
        )
    return "\n".join(lines)


def _scores(run: Run, folder: Path) -> list[tuple[Any, ...]]:
    content = json.loads((run.folder(folder) / "validation" / "summary.json").read_text(encoding="utf-8"))
    key = (run.dataset, run.configuration, run.plans, run.trainer, run.fold, run.seed)
    labels = [(*key, label, metrics["Dice"]) for label, metrics in content["mean"].items()]
    return [*labels, (*key, "foreground mean", content["foreground_mean"]["Dice"])]


def _cost(run: Run, folder: Path) -> dict[str, Any]:
    cost = json.loads((run.folder(folder) / COST).read_text(encoding="utf-8"))
    peak = cost["peak_memory"]
    memory = peak.get("allocated_bytes") or peak.get("process_bytes")  # of the GPU where there is one
    names = (*_MODEL, "parameters", "flops", "seconds_per_epoch")
    return {**{name: cost[name] for name in names}, "memory": memory}
