"""Tables and results folders of models that were never trained."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from nnunetv2_mamba.evaluation.metrics import METRICS
from nnunetv2_mamba.evaluation.tables import format_metrics

LABELS = ("Anterior", "Posterior")


def table_of(gain=0.0, seed=0, cases=12, labels=LABELS, noise=0.01) -> pd.DataFrame:
    """Dice of cases of different difficulty, the same for all models, plus a gain and noise; distances fall with it."""
    difficulty = np.random.default_rng(99).normal(0.8, 0.05, (cases, len(labels)))
    dice = np.clip(difficulty + gain + np.random.default_rng(seed).normal(0, noise, difficulty.shape), 0, 1)
    rows = []
    for i in range(cases):
        for j, label in enumerate(labels):
            for metric in METRICS:
                value = 20 * (1 - dice[i, j]) if METRICS[metric].lower_is_better else dice[i, j]
                rows.append((f"case_{i:02d}", label, metric, value))
    return pd.DataFrame(rows, columns=["case", "label", "metric", "value"])


def results_folder(base: Path, trainer: str, table: pd.DataFrame, folds=2, labels=LABELS, epochs=3, cost=None) -> Path:
    """What nnU-Net and ``evaluate`` leave behind: folds with tables, a training log, plans and, if given, costs."""
    folder = base / "Dataset998_MadeUp" / f"{trainer}__nnUNetPlans__3d_fullres"
    names = sorted(table["case"].unique())
    for fold in range(folds):
        validation = folder / f"fold_{fold}" / "validation"
        validation.mkdir(parents=True)
        chosen = table[table["case"].isin(names[fold::folds])]
        (validation / "evaluation.csv").write_text(format_metrics(chosen))
        lines = [
            f"2026-01-01 00:00:0{epoch}.000000: {text} "
            for epoch in range(epochs)
            for text in (
                f"Epoch {epoch}",
                f"train_loss {-0.1 * epoch}",
                f"val_loss {-0.2 * epoch}",
                f"Pseudo dice [np.float32({0.3 * epoch}), np.float32(nan)]",
                "Epoch time: 2.5 s",
            )
        ]
        (folder / f"fold_{fold}" / "training_log_2026_1_1_00_00_00.txt").write_text("\n".join(lines) + "\n")
        if cost is not None:
            text = json.dumps({"trainer": trainer, "fold": fold, "seed": 7} | cost)
            (folder / f"fold_{fold}" / "cost.json").write_text(text)
    values = {"background": 0} | {label: value for value, label in enumerate(labels, 1)}
    dataset = {"channel_names": {"0": "MRI"}, "labels": values, "numTraining": len(names), "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    plans = {
        "dataset_name": "Dataset998_MadeUp",
        "plans_name": "nnUNetPlans",
        "configurations": {"3d_fullres": {"patch_size": [40, 56, 40], "batch_size": 9, "spacing": [1.0, 1.0, 1.0]}},
    }
    (folder / "plans.json").write_text(json.dumps(plans))
    return folder
