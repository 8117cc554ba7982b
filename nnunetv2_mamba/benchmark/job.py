"""The process of one run: ``nnUNetv2_train`` by nnU-Net's own entry point, with its cost measured from inside.

    python -m nnunetv2_mamba.benchmark.job SWEEP/jobs/NAME.json --device cuda

Continues what an earlier process began. Exit code 0: the run is finished; 75: another process is at it; else: failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from nnunetv2_mamba import _register
from nnunetv2_mamba.benchmark.lock import lock
from nnunetv2_mamba.benchmark.run import Run
from nnunetv2_mamba.results.folds import CHECKPOINTS

BUSY = 75  # EX_TEMPFAIL


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="written by nnunetv2_mamba benchmark")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu", "mps"))
    parser.add_argument("--threads", type=int, help="of torch (default: nnU-Net's choice)")
    args = parser.parse_args(argv)
    run, sweep = Run.read(args.file), args.file.resolve().parents[1]
    with lock(run.lock(sweep)) as held:
        if not held:
            print(f"another process is at {run.name}")
            return BUSY
        if not run.finished(sweep):
            train(run, sweep, args.device, args.threads)
    return 0


def train(run: Run, sweep: Path, device: str, threads: int | None) -> None:
    """Call nnU-Net's entry point with the arguments a user would give, then write ``cost.json``."""
    _register.register()
    os.environ["nnUNet_results"] = str(run.results(sweep))
    os.environ["NNUNETV2_MAMBA_SETTINGS"] = inline_settings(run)

    import nnunetv2.run.run_training as nnunet
    import torch

    from nnunetv2_mamba.benchmark.cost import CostRecord
    from nnunetv2_mamba.benchmark.prepare import (
        save_checkpoints_whole,
        seed_every_epoch,
        seed_everything,
        set_budget,
        stop_in_order,
    )
    from nnunetv2_mamba.memory.allocator import keep_freed_memory

    if device == "cpu":
        keep_freed_memory()  # as this package's trainers do: nnU-Net's own are compared on equal terms
    make_trainer, records = nnunet.get_trainer_from_args, []

    def make_measured_trainer(*args, **kwargs):
        if threads is not None:
            torch.set_num_threads(threads)  # nnU-Net has just set its own
        seed_everything(run.seed, 0)
        trainer = make_trainer(*args, **kwargs)
        set_budget(trainer, run.budget)
        save_checkpoints_whole(trainer)
        stop_in_order(trainer)
        records.append(CostRecord(trainer))
        seed_every_epoch(trainer, run.seed)
        return trainer

    nnunet.get_trainer_from_args = make_measured_trainer
    sys.argv = command(run, run.folder(sweep), device)
    print("$", *sys.argv, flush=True)
    nnunet.run_training_entry()
    records[0].write(run, threads)


def command(run: Run, folder: Path, device: str) -> list[str]:
    """nnU-Net's command for what is left to do in ``folder``."""
    there = [name for name in CHECKPOINTS if (folder / name).is_file()]
    words = ["nnUNetv2_train", run.dataset, run.configuration, str(run.fold), "-tr", run.trainer, "-p", run.plans]
    words += ["-device", device]
    if there:
        words.append("--val" if there[0] == "checkpoint_final.pth" else "--c")
    return words


def inline_settings(run: Run) -> str:
    """The budget and the settings as ``NNUNETV2_MAMBA_SETTINGS``; JSON's scalars are TOML's."""
    settings = {**run.budget.settings(), **run.settings}
    return ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())


if __name__ == "__main__":
    sys.exit(main())
