"""nnU-Net's commands, each in a fresh process and in another folder than the repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

# What the installed script of a command does.
_COMMAND = """
import sys
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name=sys.argv.pop(1))
sys.exit(command.load()())
"""

# For ``before``: what nnU-Net's own trainers have no settings for.
ONE_ITERATION = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
initialize = nnUNetTrainer.initialize
def shorter(self):
    self.num_epochs = self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 1
    initialize(self)
nnUNetTrainer.initialize = shorter
"""


def start(folder: Path, name: str, *arguments: object, settings: str, before: str = "", **options) -> subprocess.Popen:
    """Start a command in ``folder`` with ``settings`` for our trainers; ``before`` is Python to run first."""
    return subprocess.Popen(
        [sys.executable, "-c", before + _COMMAND, name, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "NNUNETV2_MAMBA_SETTINGS": settings, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def run(folder: Path, name: str, *arguments: object, settings: str, before: str = "", returncode: int = 0) -> str:
    """Run a command to its end and return what it printed."""
    process = start(folder, name, *arguments, settings=settings, before=before)
    output, _ = process.communicate()
    assert process.returncode == returncode, output[-5000:]
    return output
