"""Small sweeps for the tests of the benchmark."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunetv2_mamba.benchmark.training import Training

TRAINING = Training("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 0, 0)
GROUPS = """
[[group]]
trainers = ["nnUNetTrainer"]
plans = ["nnUNetPlans"]
[[group]]
trainers = ["nnUNetTrainerSegMamba"]
plans = ["tinySegMambaPlans"]
"""


def write_sweep(folder: Path, text: str) -> Path:
    file = folder / "sweep.toml"
    file.write_text(text)
    return file


@contextmanager
def hold(file: Path) -> Iterator[subprocess.Popen]:
    """A process that has ``file`` locked, until its standard input ends."""
    code = "import sys, pathlib; from nnunetv2_mamba.benchmark.lock import lock\n"
    code += "with lock(pathlib.Path(sys.argv[1])) as held: print(held, flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        assert process.stdout.readline() == "True\n"
        yield process


def pretend_finished(training: Training, sweep: Path, dice: float = 0.5) -> None:
    """Write what a finished run leaves."""
    folder = training.folder(sweep)
    (folder / "validation").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint_final.pth").touch()
    summary = {"mean": {"1": {"Dice": dice}}, "foreground_mean": {"Dice": dice}}
    (folder / "validation" / "summary.json").write_text(json.dumps(summary))
    names = ("dataset", "configuration", "plans", "trainer")
    cost = {name: getattr(training, name) for name in names}
    cost |= {"parameters": 10**6, "flops": 10**9, "seconds_per_epoch": 36.0, "peak_memory": {"process_bytes": 2**30}}
    (folder / "cost.json").write_text(json.dumps(cost))
