"""How long a sweep will take, from what was measured, declared or, roughly, from traced FLOPs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from nnunetv2_mamba.files import read_json_object
from nnunetv2_mamba.results.folds import COST
from nnunetv2_mamba.trainers.papers import ScanGridRecipe

from .checks import dataset_json, plans_of, recipe_of, trainer_class
from .flops import forward_flops
from .sweep import Machine, Sweep
from .training import Training

_BACKWARD = 2  # times the forward pass
# Sustained, in nnU-Net's trainings: about 140 GFLOP/s per thread were measured on a CPU with AVX-512 (2026, 2 threads).
_FLOPS_PER_SECOND = {"cuda": 1e13, "mps": 1e12, "cpu": 1e11}
_EPOCHS, _ITERATIONS, _VALIDATION_ITERATIONS = 1000, 250, 50  # nnU-Net's
_TRAINED = 0.8  # of the scans, in each of nnU-Net's five folds

# What cost.json holds of the finished trainings of each model, by data set and model
Measured = dict[tuple[str, str], list[dict]]


@dataclass(frozen=True)
class Estimate:
    """How long the epochs of a training that are left will take, without the validation at its end.

    Attributes:
        seconds: None where nothing tells.
        source: where the number comes from, or why there is none.
    """

    seconds: float | None
    source: str


def estimate(sweep: Sweep, folder: Path) -> dict[str, Estimate]:
    """Estimate every unfinished training; the keys are the trainings' names.

    What was measured counts where a training of the same model is finished, on a device of the same type with the same
    number of threads.
    """
    measured = _measured(sweep, folder)
    flops = cache(_forward_flops)  # of each network once: it takes seconds
    left = [training for training in sweep.trainings if not training.finished(folder)]
    return {t.name: _estimate(t, sweep, measured, flops, t.epochs_done(folder)) for t in left}


def _measured(sweep: Sweep, folder: Path) -> Measured:
    found: Measured = {}
    for training in sweep.trainings:
        if not training.finished(folder):
            continue
        cost = read_json_object(training.folder(folder) / COST)
        device_type = cost.get("device_type", sweep.machine.device)  # older versions did not write it
        alike = device_type == sweep.machine.device and cost.get("threads") == sweep.machine.threads
        if alike and cost.get("seconds_per_epoch") is not None:
            found.setdefault((training.dataset, training.model), []).append(cost)
    return found


def _estimate(
    training: Training,
    sweep: Sweep,
    measured: Measured,
    flops: Callable[[str, str, str, str], int | Exception],
    done: int,
) -> Estimate:
    epochs = max(0, _epochs(training) - done)
    if alike := measured.get((training.dataset, training.model)):
        devices = ", ".join(sorted({cost.get("device", "unknown") for cost in alike}))
        seconds = statistics.median(cost["seconds_per_epoch"] for cost in alike)
        return Estimate(epochs * seconds, f"measured on {devices}")
    if training.name in sweep.declared:
        return Estimate(epochs * sweep.declared[training.name], "declared")
    forward = flops(training.dataset, training.plans, training.configuration, training.trainer)
    if isinstance(forward, Exception):
        return Estimate(None, f"its FLOPs cannot be counted: {type(forward).__name__}: {forward}")
    return Estimate(epochs * _epoch_flops(training, forward) / _throughput(sweep.machine), "rough, from FLOPs")


def _epoch_flops(training: Training, forward: int) -> float:
    budget, recipe = training.budget, recipe_of(training)
    plan = plans_of(training.dataset, training.plans).get_configuration(training.configuration)
    patches = budget.batch_size or plan.batch_size  # of an iteration
    if recipe is None:
        iterations = budget.iterations or _ITERATIONS
        validation = budget.validation_iterations or _VALIDATION_ITERATIONS
    else:
        iterations = recipe.num_iterations_per_epoch * getattr(recipe, "batches_per_step", 1)
        validation = recipe.num_val_iterations_per_epoch
    if isinstance(recipe, ScanGridRecipe):  # an iteration takes a scan, an epoch all of the fold where nothing is said
        patches = recipe.patches_per_axis ** len(plan.patch_size)
        scans = dataset_json(training.dataset)["numTraining"]
        iterations, validation = iterations or _TRAINED * scans, validation or (1 - _TRAINED) * scans
    return patches * forward * ((1 + _BACKWARD) * iterations + validation)


def _forward_flops(dataset: str, plans: str, configuration: str, trainer: str) -> int | Exception:
    try:
        return forward_flops(trainer_class(trainer), plans_of(dataset, plans), configuration, dataset_json(dataset))
    except Exception as error:  # what any network may raise on tensors without data
        return error


def _throughput(machine: Machine) -> float:
    if machine.flops_per_second is not None:
        return machine.flops_per_second
    return _FLOPS_PER_SECOND[machine.device] * (machine.threads or 1 if machine.device == "cpu" else 1)


def _epochs(training: Training) -> int:
    if recipe := recipe_of(training):
        return recipe.num_epochs
    named = re.search(r"_(\d+)epochs?", training.trainer)  # nnU-Net's own set it in their constructors
    return training.budget.epochs or (int(named[1]) if named else _EPOCHS)


def describe(sweep: Sweep, folder: Path) -> list[str]:
    """Write a line for each training, and one for their sum, for ``--dry-run``."""
    estimates = estimate(sweep, folder)
    unit = "GPU hours" if sweep.machine.device != "cpu" else "CPU hours"
    configurations = {training.name: training.configuration for training in sweep.trainings}
    lines = []
    for training in sweep.trainings:
        found = estimates.get(training.name)
        state = "finished" if found is None else f"{_hours(found.seconds)} ({found.source})"
        first = sweep.previous.get(training.name)
        lines.append(f"{training.name}  {state}" + (f", after {configurations[first[0]]}" if first else ""))
    total = sum(found.seconds or 0 for found in estimates.values()) / 3600
    unknown = sum(found.seconds is None for found in estimates.values())
    rough = any(found.source.startswith("rough") for found in estimates.values())
    at_once = sweep.machine.jobs or ("all" if sweep.slurm is not None else 1)
    lines.append(
        f"{len(sweep.trainings)} runs, {len(sweep.trainings) - len(estimates)} finished; about {total:.1f} {unit} "
        f"left for training, {at_once} at a time; "
        "the validation of each fold comes on top" + (f", and {unknown} runs of unknown length" if unknown else "")
    )
    if rough:
        lines.append(
            "Rough numbers assume a throughput ([machine] flops_per_second); they may be off by several times."
        )
    return lines


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 3600:.2f} h"
