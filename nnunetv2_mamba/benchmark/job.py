"""The process of one training: ``nnUNetv2_train`` by nnU-Net's own entry point, with its cost measured from inside.

    python -m nnunetv2_mamba.benchmark.job SWEEP/jobs/NAME.json --device cuda

Continues what an earlier process began. Exit code 0: it is finished; 75: another process is at it; else: failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from nnunetv2_mamba import _register
from nnunetv2_mamba.benchmark.lock import lock
from nnunetv2_mamba.benchmark.sweep import DEVICES
from nnunetv2_mamba.benchmark.training import Training
from nnunetv2_mamba.nnunet.names import CHECKPOINTS, FINAL_CHECKPOINT

BUSY = 75  # EX_TEMPFAIL


def main(argv: list[str] | None = None) -> int:
    """Train as a file of the sweep says, unless another process is at it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written by nnunetv2_mamba benchmark")
    parser.add_argument("--device", default="cuda", choices=DEVICES)
    parser.add_argument("--threads", type=int, help="of torch (default: nnU-Net's choice)")
    args = parser.parse_args(argv)
    training, sweep = Training.read(args.file), args.file.resolve().parents[1]
    with lock(training.lock(sweep)) as held:
        if not held:
            print(f"another process is at {training.name}")
            return BUSY
        if not training.finished(sweep):
            train(training, sweep, args.device, args.threads)
    return 0


def train(training: Training, sweep: Path, device: str, threads: int | None) -> None:
    """Call nnU-Net's entry point with the arguments that a user would give."""
    _register.register()
    os.environ["nnUNet_results"] = str(training.results(sweep))

    from nnunetv2_mamba.benchmark.measured_training import measured
    from nnunetv2_mamba.memory.allocator import keep_freed_memory
    from nnunetv2_mamba.nnunet.training_command import run_training_command

    if device == "cpu":
        keep_freed_memory()  # as this package's trainers do: nnU-Net's own are compared on equal terms
    words = command(training, training.folder(sweep), device)
    print("$", *words, flush=True)
    run_training_command(words, lambda trainer: measured(trainer, training, threads))


def command(training: Training, folder: Path, device: str) -> list[str]:
    """Return nnU-Net's command for what is left to do in ``folder``."""
    written = [name for name in CHECKPOINTS if (folder / name).is_file()]
    words = ["nnUNetv2_train", training.dataset, training.configuration, str(training.fold)]
    words += ["-tr", training.trainer, "-p", training.plans, "-device", device]
    if written:
        words.append("--val" if written[0] == FINAL_CHECKPOINT else "--c")
    return words


if __name__ == "__main__":
    sys.exit(main())
