"""What tests say of the model that ``conftest.py`` makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainedModel:
    """A model's folder, cases as nnU-Net's files, and what nnU-Net predicts for them."""

    folder: Path
    cases: dict[str, list[Path]]
    references: dict[str, Path]
