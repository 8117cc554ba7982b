"""The TOML file of a sweep: parsed, checked, and multiplied out to its trainings. See docs/benchmarking.md."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import parse_toml, read_bytes
from nnunetv2_mamba.json_numbers import is_finite_number
from nnunetv2_mamba.text import excerpt

from .training import Budget, Training

DEVICES = ("cuda", "cpu", "mps")
# Set for every training by the sweep itself.
_OWN_VARIABLES = ("nnUNet_results", "NNUNETV2_MAMBA_SETTINGS")
# What is multiplied out to trainings, with the types of the values: of the whole file or of a group, and of a group
_AXES = {"datasets": (int, str), "configurations": (str,), "folds": (int, str), "seeds": (int,)}
_GROUP = {"trainers": (str,), "plans": (str,)}
_DEFAULTS = {"folds": [0, 1, 2, 3, 4], "seeds": [0], "configurations": ["3d_fullres"]}
_TABLES = ("budget", "settings", "machine", "slurm", "group", "exclude")
# nnU-Net's names of folders, files and classes
_NAME = re.compile(r"\w[\w.+ ()-]*")
_LONGEST = 1 << 20  # bytes of a file
_MOST_TRAININGS = 100_000
_MOST = 1_000_000  # of anything that is counted
_SEEDS = 2**32
_EXCLUDE = ("dataset", "configuration", "plans", "trainer", "fold", "seed")


class SweepError(ValueError):
    """Says that something in a sweep's file does not fit; the message names file, key and remedy."""


@dataclass(frozen=True)
class Machine:
    """Where the trainings are computed.

    Attributes:
        device: ``-device`` of nnU-Net.
        jobs: trainings side by side; None for one at a time on this machine, all at once on a cluster.
        threads: of torch in each training; None leaves nnU-Net's choice.
        gpus: numbers of the GPUs that trainings side by side take in turn.
        environment: more variables for every training, such as nnUNet_n_proc_DA.
        flops_per_second: of the device, for estimates where nothing was measured.
    """

    device: str = "cuda"
    jobs: int | None = None
    threads: int | None = None
    gpus: tuple[int, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    flops_per_second: float | None = None


@dataclass(frozen=True)
class Sweep:
    """What a file describes.

    Attributes:
        file: it came from.
        trainings: in the order of the file.
        machine: where they are computed.
        declared: seconds per epoch by the name of the training, where the file says so.
        slurm: submitit's parameters; None to train on this machine.
        previous: of a cascade, the trainings of the first model by the name of each of the second, which needs them all
            finished; known once ``checks.resolve`` has looked into the plans.
    """

    file: Path
    trainings: tuple[Training, ...]
    machine: Machine
    declared: dict[str, float]
    slurm: dict[str, Any] | None
    previous: dict[str, tuple[str, ...]] = field(default_factory=dict)


def ready_made() -> dict[str, Path]:
    """Find the files that come with the package, by name."""
    return {file.name: file for file in sorted(Path(__file__).with_name("files").glob("*.toml"))}


def find_file(name: str) -> Path:
    """Take ``name`` for a path, or for the ready-made file of that name.

    Raises:
        FileNotFoundError: if there is neither.
    """
    if Path(name).is_file():
        return Path(name)
    if name not in ready_made():
        raise FileNotFoundError(f"no file {name}, and no ready-made one of this name: {', '.join(ready_made())}")
    return ready_made()[name]


def read_sweep(file: Path, datasets: Sequence[int | str] | None = None) -> Sweep:
    """Read a sweep; ``datasets`` replaces those of the file.

    Data sets stand in the trainings as the file writes them (``checks.resolve`` turns numbers into names).

    Raises:
        SweepError: for what is not TOML, unknown or missing keys, and values that do not fit.
    """
    try:
        document = parse_toml(read_bytes(file, _LONGEST).decode("utf-8-sig"))
    except ValueError as error:
        raise SweepError(f"{file} is not TOML: {error}") from error
    try:
        return _sweep(file, document, datasets)
    except SweepError as error:
        raise SweepError(f"{file}, {error}") from error


def fold_differences(trainings: Sequence[Training]) -> list[str]:
    """Say where the models of a data set and configuration have different folds, and on which they will be compared.

    The folds of a model are those of all its seeds: a seed may have some of them only.
    """
    found: dict[str, dict[str, set[int | str]]] = {}
    for training in trainings:
        models = found.setdefault(f"{training.dataset} {training.configuration}", {})
        models.setdefault(f"{training.trainer} with {training.plans}", set()).add(training.fold)
    lines = []
    for compared, models in found.items():
        every, common = set.union(*models.values()), set.intersection(*models.values())
        lacking = [f"{model} lacks {_listed(every - folds)}" for model, folds in models.items() if every - folds]
        if lacking:
            how = f"will be compared on {_listed(common)} only" if common else "cannot be compared"
            lines.append(f"models of {compared} {how}, because their folds differ: {'; '.join(lacking)}")
    return lines


def _listed(folds: set[int | str]) -> str:
    return "fold " + ", ".join(sorted(map(str, folds)))


def _sweep(file: Path, document: dict[str, Any], datasets: Sequence[int | str] | None) -> Sweep:
    """Read the document of a file; a SweepError names the key alone, and ``read_sweep`` puts the file before it."""
    _check_keys(document, (*_AXES, *_TABLES), "top level")
    budget = _budget(document.get("budget", {}))
    settings = _settings(document.get("settings", {}), "settings", budget)
    groups = _tables(document, "group")
    if not groups:
        raise SweepError("group: there is no [[group]] with trainers and plans; add one")
    trainings: dict[str, Training] = {}
    declared: dict[str, float] = {}
    for number, group in enumerate(groups, 1):
        key = f"[[group]] {number}"
        _check_keys(group, (*_GROUP, *_AXES, "settings", "seconds_per_epoch"), key)
        own = settings | _settings(group.get("settings", {}), f"{key} settings", budget)
        axes = {**_DEFAULTS, **document, **group}
        if datasets:
            axes["datasets"] = list(datasets)
        for training in _multiplied(axes, budget, own, key):
            if training.name in trainings:
                raise SweepError(f"{key}: {training.name} stands in the file twice; take it out of one group")
            trainings[training.name] = training
            if "seconds_per_epoch" in group:
                declared[training.name] = _positive(group["seconds_per_epoch"], f"{key} seconds_per_epoch")
    kept = _without_excluded(list(trainings.values()), _tables(document, "exclude"))
    if (slurm := document.get("slurm")) is not None:
        _check_table(slurm, "[slurm]")  # its keys are submitit's to check
    return Sweep(file, tuple(kept), _machine(document.get("machine", {})), declared, slurm)


def _multiplied(axes: dict[str, Any], budget: Budget, settings: dict[str, Any], key: str) -> list[Training]:
    for name, types in {**_AXES, **_GROUP}.items():
        _check_axis(axes.get(name), types, f"{key} {name}", name)
    order = ("datasets", "configurations", "folds", "seeds", "plans", "trainers")
    if math.prod(len(axes[axis]) for axis in order) > _MOST_TRAININGS:
        raise SweepError(f"{key}: makes more than {_MOST_TRAININGS} runs; leave some out")
    return [
        Training(str(dataset), configuration, plans, trainer, fold, seed, budget, settings)
        for dataset, configuration, fold, seed, plans, trainer in itertools.product(*(axes[a] for a in order))
    ]


def _check_axis(values: Any, types: tuple[type, ...], key: str, name: str) -> None:
    if name == "datasets" and not values:
        raise SweepError(f"{key}: no data set; write datasets = [ID] or give -d ID on the command line")
    kind = " or ".join({"int": "numbers", "str": "names"}[t.__name__] for t in types)
    if not isinstance(values, list) or not values or not all(type(value) in types for value in values):
        raise SweepError(f"{key}: must be a list of {kind} with at least one in it, got {excerpt(values)}")
    for value in values:
        if isinstance(value, str) and not _NAME.fullmatch(value):
            raise SweepError(f"{key}: {value!r} is no name; it must be one of nnU-Net's, not a path")
    if name == "folds" and not all(value == "all" if isinstance(value, str) else value >= 0 for value in values):
        raise SweepError(f"{key}: folds are numbers from 0 or 'all', got {excerpt(values)}")
    if name == "folds" and "all" in values and len(values) > 1:
        raise SweepError(f"{key}: 'all' trains on the other folds' validation cases; take one or the other: {values!r}")
    if name == "seeds" and not 0 <= min(values) <= max(values) < _SEEDS:
        raise SweepError(f"{key}: seeds are numbers from 0 to {_SEEDS - 1}, got {excerpt(values)}")
    if len(set(values)) < len(values):
        raise SweepError(f"{key}: {values!r} has something twice; write it once")


def _budget(table: Any) -> Budget:
    _check_keys(table, [entry.name for entry in fields(Budget)], "[budget]")
    for name, value in table.items():
        if name == "mirroring":
            if not isinstance(value, bool):
                raise SweepError(f"[budget] mirroring: must be true or false, got {excerpt(value)}")
        elif name == "schedule":
            if value not in ("epoch", "iteration"):
                raise SweepError(f"[budget] schedule: must be 'epoch' or 'iteration', got {excerpt(value)}")
        else:
            _check_count(value, f"[budget] {name}")
    return Budget(**table)


def _settings(table: Any, key: str, budget: Budget) -> dict[str, Any]:
    _check_table(table, key)
    for name, value in table.items():
        if not isinstance(value, bool | str) and not is_finite_number(value):
            raise SweepError(f"{key} {name}: must be a number, a text, true or false, got {excerpt(value)}")
        if name in budget.settings():
            raise SweepError(f"{key} {name}: is set in [budget] for every trainer already; take it out here")
    return table


def _machine(table: Any) -> Machine:
    _check_keys(table, [entry.name for entry in fields(Machine)], "[machine]")
    if table.get("device", "cuda") not in DEVICES:
        raise SweepError(f"[machine] device: must be one of {', '.join(DEVICES)}, got {excerpt(table['device'])}")
    for name in ("jobs", "threads"):
        if name in table:
            _check_count(table[name], f"[machine] {name}")
    gpus = table.get("gpus", [])
    if not isinstance(gpus, list) or not all(type(gpu) is int and gpu >= 0 for gpu in gpus):
        raise SweepError(f"[machine] gpus: must be a list of the GPUs' numbers, got {excerpt(gpus)}")
    environment = table.get("environment", {})
    _check_table(environment, "[machine] environment")
    for name in _OWN_VARIABLES:
        if name in environment:
            raise SweepError(f"[machine] environment {name}: is set by the sweep for every training; take it out")
    if "flops_per_second" in table:
        _positive(table["flops_per_second"], "[machine] flops_per_second")
    return Machine(**{**table, "gpus": tuple(gpus), "environment": {k: str(v) for k, v in environment.items()}})


def _without_excluded(trainings: list[Training], rules: list[dict[str, Any]]) -> list[Training]:
    for number, rule in enumerate(rules, 1):
        key = f"[[exclude]] {number}"
        _check_keys(rule, _EXCLUDE, key)
        kept = [t for t in trainings if any(str(getattr(t, name)) != str(v) for name, v in rule.items())]
        if not rule or len(kept) == len(trainings):
            raise SweepError(f"{key}: matches no run; correct or delete it")
        trainings = kept
    if not trainings:
        raise SweepError("[[exclude]]: leaves no run")
    return trainings


def _tables(document: dict[str, Any], key: str) -> list[dict[str, Any]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise SweepError(f"{key}: write [[{key}]] with two brackets: there can be several")
    return tables


def _check_table(table: Any, key: str) -> None:
    if not isinstance(table, dict):
        raise SweepError(f"{key}: must be a table of name = value, got {excerpt(table)}")


def _check_keys(table: Any, allowed: Sequence[str], key: str) -> None:
    _check_table(table, key)
    unknown = [name for name in table if name not in allowed]
    if unknown:
        near = difflib.get_close_matches(unknown[0], allowed, n=1)
        meant = f" (do you mean {near[0]}?)" if near else ""
        raise SweepError(f"{key}: unknown key {', '.join(unknown)}; there are {', '.join(allowed)}{meant}")


def _check_count(value: Any, key: str) -> None:
    if type(value) is not int or not 1 <= value <= _MOST:
        raise SweepError(f"{key}: must be a whole number of at least 1 and at most {_MOST}, got {excerpt(value)}")


def _positive(value: Any, key: str) -> float:
    if not is_finite_number(value) or value <= 0:
        raise SweepError(f"{key}: must be a number above 0, got {excerpt(value)}")
    return float(value)
