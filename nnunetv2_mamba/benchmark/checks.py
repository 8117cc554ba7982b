"""Whether what a sweep names exists, before the first hour is spent. Needs nnU-Net, unlike ``sweep``."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba import _register, trainers
from nnunetv2_mamba.files import read_json, read_json_object
from nnunetv2_mamba.nnunet.trainer_search import find_trainer
from nnunetv2_mamba.trainers.recipe import Recipe
from nnunetv2_mamba.trainers.settings import with_settings

from ..untrusted_plans import check_untrusted_plans
from .run import Run
from .sweep import Sweep, SweepError


def resolve(sweep: Sweep) -> Sweep:
    """The sweep with data sets by their full names.

    Raises:
        SweepError: for a data set, plans, a configuration, a fold, a trainer or a setting that is not there, with the
            remedy.
    """
    names = {name: _dataset(sweep.file, name) for name in {run.dataset: None for run in sweep.runs}}
    runs = tuple(replace(run, dataset=names[run.dataset]) for run in sweep.runs)
    for name, count in Counter(run.name for run in runs).items():
        if count > 1:
            raise SweepError(f"{sweep.file}, datasets: a data set stands there by two names, so {name} is there twice")
    # Every file is looked at once, however many folds and seeds there are.
    for run in {(run.dataset, run.plans, run.configuration): run for run in runs}.values():
        _check_plans(sweep.file, run)
    for run in {(run.dataset, run.fold): run for run in runs}.values():
        _check_fold(sweep.file, run)
    for run in {(run.trainer, str(run.settings)): run for run in runs}.values():
        _check_trainer(sweep.file, run)
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
    """Raises ValueError for a file that holds no plans, naming it."""
    file = preprocessed() / run.dataset / f"{run.plans}.json"
    return _read_plans(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read_plans(file: Path, changed: int) -> PlansManager:
    content = read_json_object(file)
    check_untrusted_plans(content, file)  # networks are built to count their operations
    plans = PlansManager(content)
    try:
        for name in plans.available_configurations:
            plans.get_configuration(name)
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{file} holds no plans of nnU-Net: {type(error).__name__} {error}") from error
    return plans


def dataset_json(run: Run) -> dict:
    return read_json_object(preprocessed() / run.dataset / "dataset.json")


def _dataset(file: Path, name: str) -> str:
    there = sorted(path.name for path in preprocessed().glob("Dataset[0-9][0-9][0-9]_*"))
    found = [full for full in there if full == name or (name.isdecimal() and full.startswith(f"Dataset{name:0>3}_"))]
    if len(found) != 1:
        raise SweepError(
            f"{file}, datasets: {len(found)} data sets {name} in nnUNet_preprocessed={preprocessed()} (there are: "
            f"{', '.join(there) or 'none'}); plan and preprocess it first, nnUNetv2_plan_and_preprocess -d {name}"
        )
    return found[0]


def _check_plans(file: Path, run: Run) -> None:
    folder, number = preprocessed() / run.dataset, convert_dataset_name_to_id(run.dataset)
    if not (folder / f"{run.plans}.json").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*Plans*.json"))) or "none"
        raise SweepError(
            f"{file}, plans: {run.dataset} has no {run.plans} (there are: {there}); make and preprocess them first: "
            f"{_planning(run.plans, number)}"
        )
    try:
        plans = plans_of(run)
    except ValueError as error:
        raise SweepError(f"{file}, plans: {error}") from error
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


def _check_fold(file: Path, run: Run) -> None:
    splits = preprocessed() / run.dataset / "splits_final.json"
    if run.fold != "all" and splits.is_file() and run.fold >= len(folds := read_json(splits)):
        raise SweepError(f"{file}, folds: {run.dataset} has {len(folds)} folds, counted from 0; there is no {run.fold}")


def _check_trainer(file: Path, run: Run) -> None:
    """That the trainer is there and, if it is one of this package, takes the settings."""
    recipe = getattr(trainer_class(run.trainer), "recipe", None)
    if isinstance(recipe, Recipe):
        try:
            with_settings(recipe, {**run.budget.settings(), **run.settings})
        except ValueError as error:
            raise SweepError(f"{file}, settings of {run.trainer}: {error}") from error


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


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """The class that nnU-Net takes for the name: another plugin's may come before one of this package.

    Raises:
        SweepError: if nnU-Net finds none.
    """
    _register.register()  # as the process of a run does
    return _find_trainer(name, os.environ["nnUNet_extTrainer"])


@cache
def _find_trainer(name: str, folders: str) -> type[nnUNetTrainer]:
    found = find_trainer(name)
    if found is None:
        similar = difflib.get_close_matches(name, ["nnUNetTrainer", *trainers.__all__], n=4)
        raise SweepError(
            f"nnU-Net finds no trainer {name}; correct the name" + (f" ({', '.join(similar)}?)" if similar else "")
        )
    return found
