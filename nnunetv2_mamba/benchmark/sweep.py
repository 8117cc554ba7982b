"""The TOML file of a sweep: parsed, checked, and multiplied out to its trainings. See docs/benchmarking.md."""

from __future__ import annotations

import difflib
import itertools
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from nnunetv2_mamba.files import parse_toml, read_bytes

from .training import Budget, Training

DEVICES = ("cuda", "cpu", "mps")
# Set for every training by the sweep itself.
_OWN_VARIABLES = ("nnUNet_results", "NNUNETV2_MAMBA_SETTINGS")
_AXES = {"datasets": (int, str), "configurations": (str,), "folds": (int, str), "seeds": (int,)}
_GROUP = {"trainers": (str,), "plans": (str,)}
# nnU-Net's names of folders, files and classes
_NAME = re.compile(r"\w[\w.+ ()-]*")
_LONGEST = 1 << 20  # bytes of a file
_MOST_TRAININGS = 100_000
_MOST = 1_000_000  # of anything that is counted
_SEEDS = 2**32
_EXCLUDE = ("dataset", "configuration", "plans", "trainer", "fold", "seed")


class SweepError(ValueError):
    """Something in the file does not fit. The message names file, key and remedy."""


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
    """Attributes:
    file: it came from.
    trainings: in the order of the file.
    declared: seconds per epoch by the name of the training, where the file says so.
    slurm: submitit's parameters; None to run on this machine.
    """

    file: Path
    trainings: tuple[Training, ...]
    machine: Machine
    declared: dict[str, float]
    slurm: dict[str, Any] | None


def ready_made() -> dict[str, Path]:
    """The files that come with the package, by name."""
    folder = Path(str(files("nnunetv2_mamba.benchmark") / "files"))
    return {file.name: file for file in sorted(folder.glob("*.toml"))}


def find_file(name: str) -> Path:
    """``name`` as a path, or the ready-made file of that name.

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
    return _Reader(file).sweep(document, datasets)


def fold_differences(trainings: Sequence[Training]) -> list[str]:
    """Where the models of a data set and configuration have different folds: on which they will be compared."""
    found: dict[str, dict[str, set[int | str]]] = {}
    for training in trainings:
        models = found.setdefault(f"{training.dataset} {training.configuration}", {})
        models.setdefault(f"{training.trainer} with {training.plans}, seed {training.seed}", set()).add(training.fold)
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


class _Reader:
    def __init__(self, file: Path):
        self.file = file

    def error(self, key: str, remedy: str) -> SweepError:
        return SweepError(f"{self.file}, {key}: {remedy}")

    def sweep(self, document: dict[str, Any], datasets: Sequence[int | str] | None) -> Sweep:
        tables = ("budget", "settings", "machine", "slurm", "group", "exclude")
        self.known(document, (*_AXES, *tables), "top level")
        shared = {"folds": [0, 1, 2, 3, 4], "seeds": [0], "configurations": ["3d_fullres"]}
        shared |= {axis: document[axis] for axis in _AXES if axis in document}
        if datasets:
            shared["datasets"] = list(datasets)
        budget = self.budget(document.get("budget", {}))
        settings = self.settings(document.get("settings", {}), "settings", budget)
        groups = self.tables(document, "group")
        if not groups:
            raise self.error("group", "there is no [[group]] with trainers and plans; add one")
        trainings: dict[str, Training] = {}
        declared: dict[str, float] = {}
        for number, group in enumerate(groups, 1):
            key = f"[[group]] {number}"
            self.known(group, (*_GROUP, *_AXES, "settings", "seconds_per_epoch"), key)
            own = settings | self.settings(group.get("settings", {}), f"{key} settings", budget)
            axes = shared | {axis: group[axis] for axis in _AXES if axis in group}
            if datasets:
                axes["datasets"] = list(datasets)
            for training in self.group(axes | {name: group.get(name) for name in _GROUP}, budget, own, key):
                if training.name in trainings:
                    raise self.error(key, f"{training.name} stands in the file twice; take it out of one group")
                trainings[training.name] = training
                if "seconds_per_epoch" in group:
                    declared[training.name] = self.positive(group["seconds_per_epoch"], f"{key} seconds_per_epoch")
        kept = self.without_excluded(list(trainings.values()), self.tables(document, "exclude"))
        if (slurm := document.get("slurm")) is not None:
            self.known(slurm, slurm if isinstance(slurm, dict) else (), "[slurm]")  # its keys are submitit's to check
        return Sweep(self.file, tuple(kept), self.machine(document.get("machine", {})), declared, slurm)

    def group(self, axes: dict[str, Any], budget: Budget, settings: dict[str, Any], key: str) -> list[Training]:
        for name, types in {**_AXES, **_GROUP}.items():
            self.check_axis(axes.get(name), types, f"{key} {name}", name)
        order = ("datasets", "configurations", "folds", "seeds", "plans", "trainers")
        if math.prod(len(axes[axis]) for axis in order) > _MOST_TRAININGS:
            raise self.error(key, f"makes more than {_MOST_TRAININGS} runs; leave some out")
        return [
            Training(str(dataset), configuration, plans, trainer, fold, seed, budget, settings)
            for dataset, configuration, fold, seed, plans, trainer in itertools.product(*(axes[a] for a in order))
        ]

    def check_axis(self, values: Any, types: tuple[type, ...], key: str, name: str) -> None:
        if name == "datasets" and not values:
            raise self.error(key, "no data set; write datasets = [ID] or give -d ID on the command line")
        kind = " or ".join({"int": "numbers", "str": "names"}[t.__name__] for t in types)
        if not isinstance(values, list) or not values or not all(type(value) in types for value in values):
            raise self.error(key, f"must be a list of {kind} with at least one in it, got {values!r}")
        for value in values:
            if isinstance(value, str) and not _NAME.fullmatch(value):
                raise self.error(key, f"{value!r} is no name; it must be one of nnU-Net's, not a path")
        if name == "folds" and not all(value == "all" if isinstance(value, str) else value >= 0 for value in values):
            raise self.error(key, f"folds are numbers from 0 or 'all', got {values!r}")
        if name == "folds" and "all" in values and len(values) > 1:
            raise self.error(
                key, f"'all' trains on the other folds' validation cases; take one or the other: {values!r}"
            )
        if name == "seeds" and not 0 <= min(values) <= max(values) < _SEEDS:
            raise self.error(key, f"seeds are numbers from 0 to {_SEEDS - 1}, got {values!r}")
        if len(set(values)) < len(values):
            raise self.error(key, f"{values!r} has something twice; write it once")

    def budget(self, table: Any) -> Budget:
        self.known(table, [entry.name for entry in fields(Budget)], "[budget]")
        for name, value in table.items():
            if name == "mirroring":
                if not isinstance(value, bool):
                    raise self.error("[budget] mirroring", f"must be true or false, got {value!r}")
            else:
                self.count(value, f"[budget] {name}")
        return Budget(**table)

    def settings(self, table: Any, key: str, budget: Budget) -> dict[str, Any]:
        self.known(table, table if isinstance(table, dict) else (), key)
        for name, value in table.items():
            if not isinstance(value, bool | int | float | str) or (
                isinstance(value, float) and not math.isfinite(value)
            ):
                raise self.error(f"{key} {name}", f"must be a number, a text, true or false, got {value!r}")
            if name in budget.settings():
                raise self.error(f"{key} {name}", "is set in [budget] for every trainer already; take it out here")
        return table

    def machine(self, table: Any) -> Machine:
        self.known(table, [entry.name for entry in fields(Machine)], "[machine]")
        if table.get("device", "cuda") not in DEVICES:
            raise self.error("[machine] device", f"must be one of {', '.join(DEVICES)}, got {table['device']!r}")
        for name in ("jobs", "threads"):
            if name in table:
                self.count(table[name], f"[machine] {name}")
        gpus = table.get("gpus", [])
        if not isinstance(gpus, list) or not all(type(gpu) is int and gpu >= 0 for gpu in gpus):
            raise self.error("[machine] gpus", f"must be a list of the GPUs' numbers, got {gpus!r}")
        environment = table.get("environment", {})
        self.known(environment, environment if isinstance(environment, dict) else (), "[machine] environment")
        for name in _OWN_VARIABLES:
            if name in environment:
                raise self.error(f"[machine] environment {name}", "is set by the sweep for every run; take it out")
        checked = {**table, "gpus": tuple(gpus), "environment": {k: str(v) for k, v in environment.items()}}
        if "flops_per_second" in table:
            self.positive(table["flops_per_second"], "[machine] flops_per_second")
        return Machine(**checked)

    def without_excluded(self, trainings: list[Training], rules: list[dict[str, Any]]) -> list[Training]:
        for number, rule in enumerate(rules, 1):
            key = f"[[exclude]] {number}"
            self.known(rule, _EXCLUDE, key)
            kept = [t for t in trainings if any(str(getattr(t, name)) != str(v) for name, v in rule.items())]
            if not rule or len(kept) == len(trainings):
                raise self.error(key, "matches no run; correct or delete it")
            trainings = kept
        if not trainings:
            raise self.error("[[exclude]]", "leaves no run")
        return trainings

    def tables(self, document: dict[str, Any], key: str) -> list[dict[str, Any]]:
        tables = document.get(key, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            raise self.error(key, f"write [[{key}]] with two brackets: there can be several")
        return tables

    def known(self, table: Any, allowed: Sequence[str], key: str) -> None:
        if not isinstance(table, dict):
            raise self.error(key, f"must be a table of name = value, got {table!r}")
        unknown = [name for name in table if name not in allowed]
        if unknown:
            near = difflib.get_close_matches(unknown[0], allowed, n=1)
            meant = f" (do you mean {near[0]}?)" if near else ""
            raise self.error(key, f"unknown key {', '.join(unknown)}; there are {', '.join(allowed)}{meant}")

    def count(self, value: Any, key: str) -> None:
        if type(value) is not int or not 1 <= value <= _MOST:
            raise self.error(key, f"must be a whole number of at least 1 and at most {_MOST}, got {value!r}")

    def positive(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            raise self.error(key, f"must be a number above 0, got {value!r}")
        return float(value)
