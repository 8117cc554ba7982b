"""What tests say of the model that ``conftest.py`` makes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class TrainedModel:
    """A model's folder, cases as nnU-Net's files, and what nnU-Net predicts for them."""

    folder: Path
    cases: dict[str, list[Path]]
    references: dict[str, Path]


def rewrite_checkpoint_dataset(file: Path, **changes: object) -> None:
    """Make a checkpoint one of a training with another dataset.json."""
    checkpoint = torch.load(file, weights_only=False)
    checkpoint["init_args"]["dataset_json"].update(changes)
    torch.save(checkpoint, file)


def rewrite_dataset(model: Path, **changes: object) -> None:
    """Make a copy of the model one of another dataset.json, that of its folds included."""
    file = model / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    for checkpoint in model.glob("fold_*/*.pth"):
        rewrite_checkpoint_dataset(checkpoint, **changes)
