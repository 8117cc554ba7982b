"""Whether what a sweep names exists, before the first hour is spent. Needs nnU-Net, unlike ``sweep``."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba import trainers

from .run import Run
from .sweep import Sweep, SweepError


def resolve(sweep: Sweep) -> Sweep:
    """The sweep with data sets by their full names.

    Raises:
        SweepError: for a data set, plans, a configuration, a fold or a trainer that is not there, with the remedy.
    """
    runs = tuple(replace(run, dataset=_dataset(sweep.file, run.dataset)) for run in sweep.runs)
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise SweepError(f"{sweep.file}, datasets: a data set stands there by two names, so {name} is there twice")
    for run in runs:
        _check(sweep.file, run)
    declared = {
        new.name: sweep.declared[old.name]
        for old, new in zip(sweep.runs, runs, strict=True)
        if old.name in sweep.declared
    }
    return replace(sweep, runs=runs, declared=declared)


def preprocessed() -> Path:
    value = os.environ.get("nnUNet_preprocessed")
    if not value:
        raise SweepError("nnUNet_preprocessed is not set; set it to nnU-Net's folder of preprocessed data")
    return Path(value)


def plans_of(run: Run) -> PlansManager:
    return PlansManager(str(preprocessed() / run.dataset / f"{run.plans}.json"))


def dataset_json(run: Run) -> dict:
    return json.loads((preprocessed() / run.dataset / "dataset.json").read_text(encoding="utf-8"))


def _dataset(file: Path, name: str) -> str:
    there = sorted(path.name for path in preprocessed().glob("Dataset*_*"))
    found = [full for full in there if full == name or (name.isdecimal() and full.startswith(f"Dataset{name:0>3}_"))]
    if len(found) != 1:
        raise SweepError(
            f"{file}, datasets: {len(found)} data sets {name} in nnUNet_preprocessed={preprocessed()} (there are: "
            f"{', '.join(there) or 'none'}); plan and preprocess it first, nnUNetv2_plan_and_preprocess -d {name}"
        )
    return found[0]


def _check(file: Path, run: Run) -> None:
    folder, number = preprocessed() / run.dataset, int(run.dataset[7:10])
    if not (folder / f"{run.plans}.json").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*Plans*.json"))) or "none"
        raise SweepError(
            f"{file}, plans: {run.dataset} has no {run.plans} (there are: {there}); make and preprocess them first: "
            f"{_planning(run.plans, number)}"
        )
    plans = plans_of(run)
    if run.configuration not in plans.available_configurations:
        raise SweepError(
            f"{file}, configurations: {run.plans} of {run.dataset} has no {run.configuration}; it has "
            f"{', '.join(plans.available_configurations)}"
        )
    data = folder / plans.get_configuration(run.configuration).data_identifier
    if not data.is_dir():
        raise SweepError(
            f"{file}, configurations: {data} is not there; preprocess it with nnUNetv2_preprocess -d {number} "
            f"-plans_name {run.plans} -c {run.configuration}"
        )
    splits = folder / "splits_final.json"
    if run.fold != "all" and splits.is_file() and run.fold >= len(folds := json.loads(splits.read_text())):
        raise SweepError(f"{file}, folds: {run.dataset} has {len(folds)} folds, counted from 0; there is no {run.fold}")
    trainer_class(run.trainer)


def _planning(plans: str, number: int) -> str:
    """The command that makes plans of a known name."""
    known = {f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")}
    if plans in known:
        return f"nnUNetv2_plan_and_preprocess -d {number} -pl {known[plans]}"
    base, _, matched = plans.removeprefix("nnUNet").removesuffix("Plans").partition("As")
    if matched:
        return f"nnunetv2_mamba plan -d {number} --network {base} --match nnUNet{matched}Plans"
    if base:
        return f"nnunetv2_mamba plan -d {number} --network {base}, or the planner that writes them"
    return f"nnUNetv2_plan_and_preprocess -d {number}"


@cache
def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Raises SweepError if nnU-Net does not find the trainer."""
    if name in trainers.__all__:
        return getattr(trainers, name)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net tells where it searches
            return recursive_find_trainer_class_by_name(name)
    except RuntimeError as error:
        similar = difflib.get_close_matches(name, ["nnUNetTrainer", *trainers.__all__], n=4)
        raise SweepError(
            f"nnU-Net finds no trainer {name}; correct the name" + (f" ({', '.join(similar)}?)" if similar else "")
        ) from error
