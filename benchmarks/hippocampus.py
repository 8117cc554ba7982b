"""Train several trainers on one fold of a data set with the same small budget and compare them.

    python benchmarks/hippocampus.py --raw FOLDER_WITH_Dataset004_Hippocampus --work FOLDER \
        --trainers nnUNetTrainer nnUNetTrainerMedSegMamba --epochs 5 --iterations 50 --batch-size 2

Each trainer runs nnU-Net's own training loop, then nnU-Net's own validation (which predicts and evaluates the fold's
validation cases, here without mirroring). Only the number of epochs and iterations, equal for all, are set from here.
Results are added to FOLDER/results.json as they come, and printed as a Markdown table; a trainer that is in the file
already is not trained again. Runs on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nnU-Net reads its folders from the environment when it is imported, so that comes later
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

CONFIGURATION = "3d_fullres"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common_arguments(parser)
    parser.add_argument("--trainers", nargs="+", required=True)
    return parser.parse_args()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the data are and how long to train."""
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw folder that holds the data set")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything else")
    parser.add_argument("--dataset", type=int, default=4)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True, help="per epoch")
    parser.add_argument("--batch-size", type=int, help="default: the plan's")


def set_folders(args: argparse.Namespace, results: Path) -> None:
    """Tell nnU-Net its folders, before it is imported."""
    os.environ["nnUNet_raw"] = str(args.raw)
    os.environ["nnUNet_preprocessed"] = str(args.work / "preprocessed")
    os.environ["nnUNet_results"] = str(results)
    args.work.mkdir(parents=True, exist_ok=True)


def prepare(args: argparse.Namespace) -> str:
    """Plan and preprocess unless done; return the name of a configuration with the batch size asked for."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    name = maybe_convert_to_dataset_name(args.dataset)
    plans_file = args.work / "preprocessed" / name / "nnUNetPlans.json"
    if not plans_file.is_file():
        command = ["nnUNetv2_plan_and_preprocess", "-d", str(args.dataset), "-c", CONFIGURATION, "-np", "2"]
        subprocess.run(command, check=True)
    if args.batch_size is None:
        return CONFIGURATION
    plans = json.loads(plans_file.read_text())
    configuration = f"{CONFIGURATION}_bs{args.batch_size}"
    if configuration not in plans["configurations"]:
        plans["configurations"][configuration] = {"inherits_from": CONFIGURATION, "batch_size": args.batch_size}
        plans_file.write_text(json.dumps(plans, indent=2))
    return configuration


def make_trainer(
    trainer_name: str, configuration: str, args: argparse.Namespace, plans: str = "nnUNetPlans", seed: int = 0
) -> nnUNetTrainer:
    """The trainer with the budget of ``args``; also seeds what it will draw from in this process."""
    import numpy as np
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(seed)
    np.random.seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trainer = get_trainer_from_args(str(args.dataset), configuration, args.fold, trainer_name, plans, device=device)
    trainer.num_epochs, trainer.num_iterations_per_epoch = args.epochs, args.iterations
    trainer.num_val_iterations_per_epoch = 5
    return trainer


def train(trainer: nnUNetTrainer) -> dict:
    """Train and validate; return the row of the results."""
    import torch

    step, seconds = trainer.train_step, []

    def timed_step(batch: dict) -> dict:
        start = time.perf_counter()
        result = step(batch)  # ends with the loss on the CPU, so the device is done
        seconds.append(time.perf_counter() - start)
        return result

    trainer.train_step = timed_step
    trainer.run_training()
    trainer.inference_allowed_mirroring_axes = None
    trainer.perform_actual_validation()
    summary = json.loads((Path(trainer.output_folder) / "validation" / "summary.json").read_text())
    return {
        "trainer": type(trainer).__name__,
        "dice": {label: metrics["Dice"] for label, metrics in summary["mean"].items()},
        "mean_dice": summary["foreground_mean"]["Dice"],
        "parameters": sum(parameter.numel() for parameter in trainer.network.parameters()),
        "seconds_per_iteration": sorted(seconds)[len(seconds) // 2],
        "epochs": trainer.num_epochs,
        "iterations_per_epoch": trainer.num_iterations_per_epoch,
        "batch_size": trainer.batch_size,
        "validation_cases": len(summary["metric_per_case"]),
        "device": torch.cuda.get_device_name()
        if trainer.device.type == "cuda"
        else f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def table(rows: list[dict]) -> str:
    labels = list(rows[0]["dice"])
    lines = [
        "| trainer | "
        + " | ".join(f"Dice {label}" for label in labels)
        + " | mean Dice | parameters | s / iteration |",
        "|---" * (len(labels) + 4) + "|",
    ]
    for row in rows:
        dice = " | ".join(f"{row['dice'][label]:.4f}" for label in labels)
        lines.append(
            f"| {row['trainer']} | {dice} | {row['mean_dice']:.4f} | {row['parameters'] / 1e6:.1f} M "
            f"| {row['seconds_per_iteration']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    args = parse_arguments()
    set_folders(args, args.work / "results")
    results_file = args.work / "results.json"
    rows = json.loads(results_file.read_text()) if results_file.is_file() else []
    configuration = prepare(args)
    for trainer in args.trainers:
        if any(row["trainer"] == trainer for row in rows):
            continue
        rows.append(train(make_trainer(trainer, configuration, args)))
        results_file.write_text(json.dumps(rows, indent=2))
        print(table(rows), flush=True)


if __name__ == "__main__":
    main()
