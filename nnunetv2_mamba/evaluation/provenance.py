"""What a reader of a comparison must know of how its tables came about."""

from __future__ import annotations

from collections.abc import Sequence

from .folds import TRAINING_CASES, is_of_training_cases, left_out
from .report.runs import Run


def notes(runs: Sequence[Run]) -> list[str]:
    """Sentences on cases that were trained on."""
    found = []
    for run in runs:
        found.append(left_out(run.path))
        if any(
            record.get("training_cases") or is_of_training_cases(folder) for folder, record in run.evaluations.items()
        ):
            found.append(f"{run.path}: {TRAINING_CASES}")
    return [f"{note}." for note in found if note]
