"""What was measured and committed, for the pictures of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parents[2] / "benchmarks" / "results"


def results(name: str) -> Any:
    """Return what ``benchmarks/results/NAME.json`` says."""
    return json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
