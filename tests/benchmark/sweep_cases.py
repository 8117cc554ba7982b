"""Small sweeps for the tests of the benchmark."""

from __future__ import annotations

import json
from pathlib import Path

from nnunetv2_mamba.benchmark.run import Run

RUN = Run("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 0, 0)


def write_sweep(folder: Path, text: str) -> Path:
    file = folder / "sweep.toml"
    file.write_text(text)
    return file


def pretend_finished(run: Run, sweep: Path, dice: float = 0.5) -> None:
    """Write what a finished run leaves."""
    folder = run.folder(sweep)
    (folder / "validation").mkdir(parents=True)
    (folder / "checkpoint_final.pth").touch()
    summary = {"mean": {"1": {"Dice": dice}}, "foreground_mean": {"Dice": dice}}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))
    names = ("dataset", "configuration", "plans", "trainer")
    cost = {name: getattr(run, name) for name in names}
    cost |= {"parameters": 10**6, "flops": 10**9, "seconds_per_epoch": 36.0, "peak_memory": {"process_bytes": 2**30}}
    (folder / "cost.json").write_text(json.dumps(cost))
