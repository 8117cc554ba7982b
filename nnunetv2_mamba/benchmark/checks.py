"""Whether what a sweep names exists, before the first hour is spent. Needs nnU-Net, unlike ``sweep``."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba import _register, trainers
from nnunetv2_mamba.files import read_json, read_json_object
from nnunetv2_mamba.nnunet.planned_configuration import configuration_with_preprocessing
from nnunetv2_mamba.nnunet.plans_files import plans_files
from nnunetv2_mamba.nnunet.preprocessed_files import N_FOLDS
from nnunetv2_mamba.nnunet.trainer_search import find_trainer
from nnunetv2_mamba.nnunet_folders import nnunet_folder
from nnunetv2_mamba.trainers.recipe import Recipe
from nnunetv2_mamba.trainers.settings import with_settings

from ..untrusted.plans import check_untrusted_plans
from .sweep import Sweep, SweepError
from .training import Training


def resolve(sweep: Sweep) -> Sweep:
    """Give the data sets of a sweep their full names, and look for all that it names.

    Raises:
        SweepError: for a data set, plans, a configuration, a fold, a trainer or a setting that is not there, with the
            remedy.
    """
    names = {name: _dataset(sweep.file, name) for name in dict.fromkeys(t.dataset for t in sweep.trainings)}
    trainings = tuple(replace(training, dataset=names[training.dataset]) for training in sweep.trainings)
    for name, count in Counter(training.name for training in trainings).items():
        if count > 1:
            raise SweepError(f"{sweep.file}, datasets: a data set stands there by two names, so {name} is there twice")
    # Every file is looked at once, however many folds and seeds there are.
    for training in {(each.dataset, each.plans, each.configuration): each for each in trainings}.values():
        _check_plans(sweep.file, training)
    for training in {(each.dataset, each.fold): each for each in trainings}.values():
        _check_fold(sweep.file, training)
    for training in {(each.trainer, str(each.settings)): each for each in trainings}.values():
        _check_trainer(sweep.file, training)
    declared = {
        new.name: sweep.declared[old.name]
        for old, new in zip(sweep.trainings, trainings, strict=True)
        if old.name in sweep.declared
    }
    return replace(sweep, trainings=trainings, declared=declared, previous=_previous(sweep.file, trainings))


def _previous(file: Path, trainings: Sequence[Training]) -> dict[str, tuple[str, ...]]:
    """Find the trainings of a cascade's first stage that each of the second needs."""
    models: dict[tuple[str, str, int], list[Training]] = {}
    for training in trainings:
        models.setdefault((training.dataset, training.model, training.seed), []).append(training)
    previous = {}
    for (dataset, _, seed), (training, *others) in models.items():
        stage = plans_of(dataset, training.plans).get_configuration(training.configuration).previous_stage_name
        if stage is None:
            continue
        first = models.get((dataset, replace(training, configuration=stage).model, seed), [])
        folds = {each.fold for each in first}
        if "all" not in folds and (missing := [fold for fold in range(_n_folds(file, dataset)) if fold not in folds]):
            raise SweepError(
                f"{file}, configurations: {training.configuration} of {training.plans} trains on what {stage} predicts "
                f"for all cases in this sweep; add {stage} with the same trainer and seed {seed}, fold "
                f"{', '.join(map(str, missing))}"
            )
        previous |= dict.fromkeys((each.name for each in (training, *others)), tuple(each.name for each in first))
    return previous


def plans_of(dataset: str, plans: str) -> PlansManager:
    """Read the plans of a preprocessed data set; a file that has not changed is read once.

    Raises:
        ValueError: for a file that holds no plans, naming it.
    """
    file = nnunet_folder("nnUNet_preprocessed") / dataset / f"{plans}.json"
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


def dataset_json(dataset: str) -> dict:
    """Read the ``dataset.json`` of a preprocessed data set."""
    return read_json_object(nnunet_folder("nnUNet_preprocessed") / dataset / "dataset.json")


def _dataset(file: Path, name: str) -> str:
    preprocessed = nnunet_folder("nnUNet_preprocessed")
    present = sorted(path.name for path in preprocessed.glob("Dataset[0-9][0-9][0-9]_*") if path.is_dir())
    found = [full for full in present if full == name or (name.isdecimal() and full.startswith(f"Dataset{name:0>3}_"))]
    if len(found) != 1:
        raise SweepError(
            f"{file}, datasets: {len(found)} data sets {name} in nnUNet_preprocessed={preprocessed} (there are: "
            f"{', '.join(present) or 'none'}); plan and preprocess it first, nnUNetv2_plan_and_preprocess -d {name}"
        )
    return found[0]


def _check_plans(file: Path, training: Training) -> None:
    folder = nnunet_folder("nnUNet_preprocessed") / training.dataset
    number = convert_dataset_name_to_id(training.dataset)
    if not (folder / f"{training.plans}.json").is_file():
        present = ", ".join(path.stem for path in plans_files(folder)) or "none"
        raise SweepError(
            f"{file}, plans: {training.dataset} has no {training.plans} (there are: {present}); make and "
            f"preprocess them first: {_planning(training.plans, number)}"
        )
    try:
        plans = plans_of(training.dataset, training.plans)
    except ValueError as error:
        raise SweepError(f"{file}, plans: {error}") from error
    if training.configuration not in plans.available_configurations:
        raise SweepError(
            f"{file}, configurations: {training.plans} of {training.dataset} has no {training.configuration}; it has "
            f"{', '.join(plans.available_configurations)}"
        )
    data = folder / plans.get_configuration(training.configuration).data_identifier
    if not data.is_dir():
        raise SweepError(
            f"{file}, configurations: {data} is not there; preprocess it with nnUNetv2_preprocess -d {number} "
            f"-plans_name {training.plans} -c {training.configuration}"
        )


def _check_fold(file: Path, training: Training) -> None:
    if training.fold != "all" and training.fold >= (n_folds := _n_folds(file, training.dataset)):
        known = f"{training.dataset} has {n_folds} folds, counted from 0"
        raise SweepError(f"{file}, folds: {known}; there is no {training.fold}")


def _n_folds(file: Path, dataset: str) -> int:
    splits = nnunet_folder("nnUNet_preprocessed") / dataset / "splits_final.json"
    if not splits.is_file():
        if dataset_json(dataset).get("numTraining", N_FOLDS) < N_FOLDS:
            raise SweepError(
                f"{file}, folds: {dataset} has too few cases for the {N_FOLDS} folds that nnU-Net makes; write others "
                f'into {splits}, or give folds = ["all"]'
            )
        return N_FOLDS
    folds = read_json(splits)
    if not isinstance(folds, list):
        raise SweepError(f"{file}, folds: {splits} must hold a list with an object for each fold")
    return len(folds)


def _check_trainer(file: Path, training: Training) -> None:
    """Check that the trainer is there and, if it is one of this package, takes the settings."""
    try:
        recipe_of(training)
    except ValueError as error:
        raise SweepError(f"{file}, settings of {training.trainer}: {error}") from error


def check_same_plans(training: Training, sweep: Path) -> None:
    """Check that a model of which a sweep's folder holds something was planned as it is now.

    Raises:
        ValueError: if it was not: the folds and seeds to come would be another model's than those that are there.
    """
    copy = training.folder(sweep).parent / "plans.json"  # nnU-Net's, of when a training began
    if not copy.is_file():
        return
    own, now = read_json_object(copy), plans_of(training.dataset, training.plans).plans
    then, now = (configuration_with_preprocessing(plans, training.configuration) for plans in (own, now))
    if training.budget.batch_size is not None:
        now["batch_size"] = then.get("batch_size")
    if changed := [key for key in then | now if then.get(key) != now.get(key)]:
        raise ValueError(
            f"{copy}: {training.plans} of {training.dataset} was another when this was trained ({', '.join(changed)}); "
            "name another folder with -o, or delete the model's"
        )


def _planning(plans: str, number: int) -> str:
    """Return the command that makes plans of this name, which ``planning.command`` may have chosen."""
    known = {f"nnUNetResEncUNet{size}Plans": f"nnUNetPlannerResEnc{size}" for size in ("M", "L", "XL")}
    if plans in known:
        return f"nnUNetv2_plan_and_preprocess -d {number} -pl {known[plans]}"
    if plans == "nnUNetPlans":
        return f"nnUNetv2_plan_and_preprocess -d {number}"
    name, _, matched = plans.removeprefix("nnUNet").removesuffix("Plans").partition("As")
    networks = {trainer.network_name or "" for trainer in trainers.FULL_LENGTH.values()}
    network = max(filter(name.startswith, networks), key=len, default="")
    if not network:
        return f"nnUNetv2_plan_and_preprocess -d {number} -pl PLANNER, with the planner that writes {plans}"
    options, memory = re.fullmatch(r"(.*?)(?:_?([\d.]+)G)?", name.removeprefix(network)).groups()
    command = f"nnunetv2_mamba plan -d {number} --network {network}"
    if memory:
        command += f" --gpu-memory {memory}"
    if matched:
        command += f" --match nnUNet{'' if matched == 'Default' else matched}Plans"
    return f"{command} --option KEY=VALUE, with what {options} stands for" if options else command


def recipe_of(training: Training) -> Recipe | None:
    """What a trainer of this package will train with; None for nnU-Net's and other plugins'.

    Raises:
        SweepError: if nnU-Net finds no such trainer.
        ValueError: for settings that do not fit.
    """
    recipe = getattr(trainer_class(training.trainer), "recipe", None)
    if not isinstance(recipe, Recipe):
        return None
    return with_settings(recipe, {**training.budget.settings(), **training.settings})


def trainer_class(name: str) -> type[nnUNetTrainer]:
    """Find the class that nnU-Net takes for the name: another plugin's may come before one of this package.

    Raises:
        SweepError: if nnU-Net finds none.
    """
    _register.register()  # as a job does
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
