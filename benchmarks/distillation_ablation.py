"""What self-distillation, its gate and its hyper-parameters, and the KAN, do to MSD-KMamba at a small budget.

    python benchmarks/distillation_ablation.py --raw FOLDER_WITH_Dataset004_Hippocampus --work FOLDER \
        --epochs 5 --iterations 25 --batch-size 2 --widths 8 16 32 64 --cases 40 --validation-cases 20 --jobs 2

Every run is a process with one thread, in nnU-Net's own training loop and validation (without mirroring), with the same
seed and the same cases. A finished run leaves FOLDER/runs/NAME.json and is not run again. With ``--flip-share 0.3`` the
foreground labels of 30 % of the training cases are exchanged, and only what shows the effect of the gate is run. Prints
Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # nnU-Net reads its folders from the environment when it is imported, so that comes later
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

CONFIGURATION = "3d_fullres"
TRAINER = "nnUNetTrainerMSDKMamba"
TEMPERATURES, WEIGHTS, GATES = (1, 2, 4), (0.1, 0.5, 1.0), ("advantage", "none")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--raw", type=Path, required=True, help="nnUNet_raw folder that holds the data set")
    parser.add_argument("--work", type=Path, required=True, help="folder for everything else")
    parser.add_argument("--dataset", type=int, default=4)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--iterations", type=int, required=True, help="per epoch")
    parser.add_argument("--batch-size", type=int, help="default: the plan's")
    parser.add_argument("--widths", type=int, nargs="+", help="channels per stage, multiples of 8; default: the plan's")
    parser.add_argument("--mamba-layers", type=int, default=2, help="per stage")
    parser.add_argument("--cases", type=int, help="training cases; default: all")
    parser.add_argument("--validation-cases", type=int, help="default: all")
    parser.add_argument("--flip-share", type=float, default=0.0, help="share of training cases with exchanged labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", default="", help="for all runs, as in NNUNETV2_MAMBA_SETTINGS")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--only", nargs=2, metavar=("RUN", "SEED"), help="one run, in this process")
    return parser.parse_args()


def grid_name(gate: str, temperature: float, weight: float) -> str:
    return f"gate {gate}, tau {temperature}, lambda {weight}"


def runs(flipped: bool) -> dict[str, tuple[str, str]]:
    """Trainer and settings of every run by its name."""
    table = {
        "deep supervision only": (f"{TRAINER}NoDistillation", ""),
        "distillation, defaults": (TRAINER, ""),
        "distillation, no gate": (TRAINER, "gate='none', brake=false"),
    }
    if flipped:
        return table
    table["distillation, MLP for KAN"] = (f"{TRAINER}NoKAN", "")
    for gate in GATES:
        for temperature in TEMPERATURES:
            for weight in WEIGHTS:
                settings = f"gate='{gate}', temperature={temperature}, distillation_weight={weight}"
                settings += "" if gate != "none" else ", brake=false"
                table[grid_name(gate, temperature, weight)] = (TRAINER, settings)
    return table


def result_file(args: argparse.Namespace, name: str, seed: int) -> Path:
    return args.work / "runs" / f"{re.sub('[^A-Za-z0-9.]+', '_', name)}__flip{args.flip_share:g}__seed{seed}.json"


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


def write_plans(args: argparse.Namespace) -> str:
    """Plans of MSD-KMamba with the widths asked for; returns their name."""
    from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name

    folder = args.work / "preprocessed" / maybe_convert_to_dataset_name(args.dataset)
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    architecture = plans["configurations"][CONFIGURATION]["architecture"]
    planned = architecture["arch_kwargs"]
    widths = args.widths or planned["features_per_stage"]
    architecture["network_class_name"] = "nnunetv2_mamba.architectures.MSDKMamba"
    architecture["arch_kwargs"] = {key: planned[key] for key in ("n_stages", "conv_op", "kernel_sizes", "strides")}
    architecture["arch_kwargs"] |= {"features_per_stage": widths, "n_mamba_layers_per_stage": args.mamba_layers}
    architecture["_kw_requires_import"] = ["conv_op"]
    plans["plans_name"] = f"ablation_{'_'.join(map(str, widths))}_layers{args.mamba_layers}"
    text = json.dumps(plans, indent=2)
    file = folder / f"{plans['plans_name']}.json"
    if not file.is_file() or file.read_text() != text:
        file.write_text(text)
    return plans["plans_name"]


def make_trainer(
    trainer_name: str, configuration: str, plans: str, seed: int, args: argparse.Namespace
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


def limit_cases(trainer, cases: int | None, validation_cases: int | None) -> None:
    """Train and validate on the first cases of the fold only."""
    training, validation = trainer.do_split()
    split = sorted(training)[:cases], sorted(validation)[:validation_cases]
    trainer.do_split = lambda: split


def flip_labels(trainer, share: float) -> None:
    """Exchange the foreground labels, last for first, of a share of the training cases; the same ones in every run."""
    import numpy as np

    get_datasets = trainer.get_tr_and_val_datasets
    last = max(trainer.label_manager.foreground_labels)

    def get_flipped_datasets():
        training, validation = get_datasets()
        names = sorted(training.identifiers)
        flipped = set(np.random.default_rng(0).permutation(names)[: round(share * len(names))])
        load = training.load_case

        def load_case(name):
            data, labels, previous, properties = load(name)
            if name in flipped:
                labels = np.asarray(labels[:])
                labels = np.where((labels > 0) & (labels <= last), last + 1 - labels, labels)  # not those to ignore
            return data, labels, previous, properties

        training.load_case = load_case
        return training, validation

    trainer.get_tr_and_val_datasets = get_flipped_datasets


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


def run_one(args: argparse.Namespace, name: str, seed: int) -> None:
    """Train, validate and write the result."""
    import torch

    torch.set_num_threads(1)
    configuration, plans = prepare(args), write_plans(args)
    trainer = make_trainer(runs(args.flip_share > 0)[name][0], configuration, plans, seed, args)
    limit_cases(trainer, args.cases, args.validation_cases)
    if args.flip_share:
        flip_labels(trainer, args.flip_share)
    row = {"run": name, "seed": seed, "flip_share": args.flip_share, **train(trainer), "plans": plans}
    file = result_file(args, name, seed)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(row, indent=2))
    partial.replace(file)


def start(args: argparse.Namespace, name: str, seed: int) -> None:
    """Run one in a process of its own, unless it is done."""
    file = result_file(args, name, seed)
    if file.is_file():
        return
    environment = {
        **os.environ,
        "NNUNETV2_MAMBA_SETTINGS": ", ".join(filter(None, (runs(args.flip_share > 0)[name][1], args.settings))),
        "nnUNet_results": str(args.work / "results" / file.stem),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *sys.argv, "--only", name, str(seed)]
    with file.with_suffix(".log").open("w") as log:
        failed = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    print(f"{name}, seed {seed}: " + (f"failed, see {log.name}" if failed else "done"), flush=True)


def read_results(args: argparse.Namespace) -> dict[str, list[dict]]:
    """The finished runs by name, one row per seed."""
    found: dict[str, list[dict]] = {}
    for name in runs(args.flip_share > 0):
        files = [result_file(args, name, seed) for seed in args.seeds]
        rows = [json.loads(file.read_text()) for file in files if file.is_file()]
        if rows:
            found[name] = rows
    return found


def mean_dice(rows: list[dict]) -> float:
    return statistics.fmean(row["mean_dice"] for row in rows)


def table(results: dict[str, list[dict]]) -> str:
    labels = list(next(iter(results.values()))[0]["dice"])
    lines = ["| run | " + " | ".join(f"Dice {label}" for label in labels) + " | mean Dice | seeds |"]
    lines.append("|---" * (len(labels) + 3) + "|")
    for name, rows in results.items():
        dice = " | ".join(f"{statistics.fmean(row['dice'][label] for row in rows):.4f}" for label in labels)
        lines.append(f"| {name} | {dice} | {mean_dice(rows):.4f} | {len(rows)} |")
    return "\n".join(lines)


def spread(results: dict[str, list[dict]]) -> str:
    """How much the mean Dice varies over temperature and weight, with the gate and without."""
    lines = ["| gate | lowest | highest | highest - lowest | standard deviation | runs |", "|---|---|---|---|---|---|"]
    for gate in GATES:
        names = [grid_name(gate, temperature, weight) for temperature in TEMPERATURES for weight in WEIGHTS]
        values = [mean_dice(results[name]) for name in names if name in results]
        if len(values) > 1:
            low, high = min(values), max(values)
            deviation = statistics.stdev(values)
            lines.append(f"| {gate} | {low:.4f} | {high:.4f} | {high - low:.4f} | {deviation:.4f} | {len(values)} |")
    return "\n".join(lines)


def main() -> None:
    args = parse_arguments()
    results = os.environ.get("nnUNet_results") if args.only else None
    set_folders(args, Path(results or args.work / "results"))
    if args.only:
        run_one(args, args.only[0], int(args.only[1]))
        return
    (args.work / "runs").mkdir(exist_ok=True)
    prepare(args)
    write_plans(args)  # here, so that the processes find them and do not write at the same time
    with ThreadPoolExecutor(args.jobs) as pool:
        names = runs(args.flip_share > 0)
        started = [pool.submit(start, args, name, seed) for seed in args.seeds for name in names]
    for run in started:
        run.result()  # raises what went wrong in starting it
    finished = read_results(args)
    if finished:
        print(table(finished))
        if not args.flip_share:
            print("", spread(finished), sep="\n")


if __name__ == "__main__":
    main()
