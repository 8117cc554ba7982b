"""Seconds per training step of several trainers on the same batches, taken in turns so that a busy moment hits all.

    python benchmarks/step_time.py --raw RAW --preprocessed PREPROCESSED --plans nnUNetPlans -c 3d_fullres \
        --trainers nnUNetTrainer nnUNetTrainerSegMamba --json FILE

A step is the trainer's own ``train_step``: forward, loss, backward, clipping, optimiser; loading and augmentation are
not in it. Every round takes one step of each trainer; the median over the rounds is reported, and its ratio to the
first trainer. A trainer may have plans of its own, as nnUNetTrainer@nnUNetSmallPlans. Runs on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw")
    parser.add_argument("--preprocessed", type=Path, required=True, help="nnUNet_preprocessed, with the plans")
    parser.add_argument("--dataset", default="4")
    parser.add_argument("--plans", default="nnUNetPlans")
    parser.add_argument("-c", "--configuration", default="3d_fullres")
    parser.add_argument("--trainers", nargs="+", required=True, metavar="TRAINER[@PLANS]")
    parser.add_argument("--batch-size", type=int, help="instead of the plans'")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows here too")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> list[dict]:
    import numpy as np
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunetv2_mamba.memory.allocator import keep_freed_memory

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()  # as this package's trainers do when a training starts; here for all
    trainers = []
    for name in args.trainers:
        trainer_name, _, plans = name.partition("@")
        trainer = get_trainer_from_args(
            args.dataset, args.configuration, 0, trainer_name, plans or args.plans, device=device
        )
        if args.batch_size:
            trainer.configuration_manager.configuration["batch_size"] = args.batch_size
        trainer.initialize()
        trainer.on_train_epoch_start()
        trainers.append(trainer)
    loaders = [trainer.get_dataloaders()[0] for trainer in trainers]  # targets of as many scales as each has
    seconds: dict[str, list[float]] = {name: [] for name in args.trainers}
    for turn in range(args.rounds + 1):
        for name, trainer, loader in zip(args.trainers, trainers, loaders, strict=True):
            np.random.seed(turn)  # augmentation draws from both
            torch.manual_seed(turn)
            batch = next(loader)
            start = time.perf_counter()
            trainer.train_step(batch)  # ends with the loss on the CPU, so the device is done
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return [
        {
            "trainer": name,
            "seconds_per_step": statistics.median(seconds[name]),
            "fastest_and_slowest": [min(seconds[name]), max(seconds[name])],
            "ratio": statistics.median(seconds[name]) / statistics.median(seconds[args.trainers[0]]),
            "batch_size": trainer.batch_size,
            "patch_size": list(trainer.configuration_manager.patch_size),
            "device": torch.cuda.get_device_name()
            if device.type == "cuda"
            else f"{platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "date": time.strftime("%Y-%m-%d"),
        }
        for name, trainer in zip(args.trainers, trainers, strict=True)
    ]


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_raw"] = str(args.raw)
        os.environ["nnUNet_preprocessed"] = str(args.preprocessed)
        os.environ["nnUNet_results"] = results
        os.environ["nnUNet_n_proc_DA"] = "0"  # no other process beside a step
        rows = measure(args)
    print("| trainer | s / step | fastest to slowest | ratio |\n|---|---|---|---|")
    for row in rows:
        low, high = row["fastest_and_slowest"]
        print(f"| `{row['trainer']}` | {row['seconds_per_step']:.2f} | {low:.2f} to {high:.2f} | {row['ratio']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
