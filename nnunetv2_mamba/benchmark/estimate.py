"""How long a sweep will take, from what was measured, declared or, roughly, from traced FLOPs."""

from __future__ import annotations

import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_mamba.files import read_json_object
from nnunetv2_mamba.results.folds import COST

from .checks import dataset_json, plans_of, trainer_class
from .flops import network_cost
from .run import Run
from .sweep import Machine, Sweep

_BACKWARD = 2  # times the forward pass
# Sustained, in nnU-Net's trainings: about 140 GFLOP/s per thread were measured on a CPU with AVX-512 (2026, 2 threads).
_FLOPS_PER_SECOND = {"cuda": 1e13, "mps": 1e12, "cpu": 1e11}
_EPOCHS, _ITERATIONS, _VALIDATION_ITERATIONS = 1000, 250, 50  # nnU-Net's


@dataclass(frozen=True)
class Estimate:
    """Seconds for the epochs of a run that are left, without the validation at its end, and where the number comes
    from; None where nothing tells."""

    seconds: float | None
    source: str


def estimate(sweep: Sweep, folder: Path) -> dict[str, Estimate]:
    """For every unfinished run by name. Measured where a run with the same model and budget is finished, on a device of
    the same type with the same number of threads."""
    measured = _measured(sweep, folder)
    left = [run for run in sweep.runs if not run.finished(folder)]
    unknown = {_network(run): run for run in left if _model(run) not in measured and run.name not in sweep.declared}
    flops = {network: _forward_flops(run) for network, run in unknown.items()}  # each once: it takes seconds
    return {run.name: _estimate(run, sweep, measured, flops, run.epochs_done(folder)) for run in left}


def _model(run: Run) -> tuple[str, str]:
    return run.dataset, run.model


def _network(run: Run) -> tuple[str, ...]:
    return run.dataset, run.configuration, run.plans, run.trainer


def _measured(sweep: Sweep, folder: Path) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """Seconds per epoch and the device's name, by model."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for run in sweep.runs:
        if not run.finished(folder):
            continue
        cost = read_json_object(run.folder(folder) / COST)
        device_type = cost.get("device_type", sweep.machine.device)  # older versions did not write it
        alike = device_type == sweep.machine.device and cost.get("threads") == sweep.machine.threads
        if alike and cost.get("seconds_per_epoch") is not None:
            found.setdefault(_model(run), []).append((cost["seconds_per_epoch"], cost.get("device", "unknown")))
    return found


def _estimate(
    run: Run,
    sweep: Sweep,
    measured: dict[tuple[str, str], list[tuple[float, str]]],
    flops: dict[tuple[str, ...], int | Exception],
    done: int,
) -> Estimate:
    epochs = max(0, (run.budget.epochs or _trainers_epochs(run.trainer)) - done)
    if alike := measured.get(_model(run)):
        devices = ", ".join(sorted({device for _, device in alike}))
        return Estimate(epochs * statistics.median(seconds for seconds, _ in alike), f"measured on {devices}")
    if run.name in sweep.declared:
        return Estimate(epochs * sweep.declared[run.name], "declared")
    forward = flops[_network(run)]
    if isinstance(forward, Exception):
        return Estimate(None, f"its FLOPs cannot be counted: {type(forward).__name__}: {forward}")
    return Estimate(epochs * _epoch_flops(run, forward) / _throughput(sweep.machine), "rough, from FLOPs")


def _epoch_flops(run: Run, forward: int) -> float:
    budget = run.budget
    recipe = getattr(trainer_class(run.trainer), "recipe", None)
    iterations = budget.iterations or getattr(recipe, "num_iterations_per_epoch", 0) or _ITERATIONS
    validation = budget.validation_iterations or _VALIDATION_ITERATIONS
    batch = budget.batch_size or plans_of(run).get_configuration(run.configuration).batch_size
    return batch * forward * ((1 + _BACKWARD) * iterations + validation)


def _forward_flops(run: Run) -> int | Exception:
    try:
        return network_cost(trainer_class(run.trainer), plans_of(run), run.configuration, dataset_json(run)).flops
    except Exception as error:  # what any network may raise on tensors without data
        return error


def _throughput(machine: Machine) -> float:
    if machine.flops_per_second is not None:
        return machine.flops_per_second
    return _FLOPS_PER_SECOND[machine.device] * (machine.threads or 1 if machine.device == "cpu" else 1)


def _trainers_epochs(name: str) -> int:
    recipe = getattr(trainer_class(name), "recipe", None)
    if recipe is not None:
        return recipe.num_epochs
    named = re.search(r"_(\d+)epochs?", name)  # nnU-Net's own set it in their constructors
    return int(named[1]) if named else _EPOCHS


def describe(sweep: Sweep, folder: Path) -> list[str]:
    """The runs, a line each, and the sum, for ``--dry-run``."""
    estimates = estimate(sweep, folder)
    unit = "GPU hours" if sweep.machine.device != "cpu" else "CPU hours"
    lines = []
    for run in sweep.runs:
        found = estimates.get(run.name)
        state = "finished" if found is None else f"{_hours(found.seconds)} ({found.source})"
        lines.append(f"{run.name}  {state}")
    total = sum(found.seconds or 0 for found in estimates.values()) / 3600
    unknown = sum(found.seconds is None for found in estimates.values())
    rough = any(found.source.startswith("rough") for found in estimates.values())
    lines.append(
        f"{len(sweep.runs)} runs, {len(sweep.runs) - len(estimates)} finished; about {total:.1f} {unit} left for "
        f"training, {sweep.machine.jobs or 'all' if sweep.slurm is not None else sweep.machine.jobs or 1} at a time; "
        "the validation of each fold comes on top" + (f", and {unknown} runs of unknown length" if unknown else "")
    )
    if rough:
        lines.append(
            "Rough numbers assume a throughput ([machine] flops_per_second); they may be off by several times."
        )
    return lines


def _hours(seconds: float | None) -> str:
    return "unknown" if seconds is None else f"{seconds / 3600:.2f} h"
