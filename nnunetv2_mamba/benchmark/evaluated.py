"""The end of a sweep: the models that are complete, evaluated and compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunetv2_mamba.evaluation.compare import compare_results
from nnunetv2_mamba.evaluation.folders import from_results
from nnunetv2_mamba.evaluation.metrics import Options
from nnunetv2_mamba.evaluation.report.runs import default_names, read_run
from nnunetv2_mamba.evaluation.report.wording import findings
from nnunetv2_mamba.evaluation.run import evaluate

from .run import Run


def complete_models(runs: Iterable[Run], folder: Path) -> dict[str, list[Path]]:
    """Results folders of the models whose runs are all finished, by what can be compared: data set and configuration.

    A model that was trained with several seeds has a folder for each.
    """
    runs = list(runs)
    unfinished = {(run.dataset, run.model) for run in runs if not run.finished(folder)}
    found: dict[str, dict[Path, None]] = {}
    for run in runs:
        if (run.dataset, run.model) not in unfinished:
            found.setdefault(f"{run.dataset}__{run.configuration}", {})[run.folder(folder).parent] = None
    return {name: list(folders) for name, folders in found.items()}


def evaluate_models(models: Iterable[Path]) -> None:
    """Write ``evaluation.csv`` and ``.json`` into the validation folders of all folds of the models; resumes."""
    evaluate([pairing for model in models for pairing in from_results(model)], Options())


def compare_models(models: list[Path], output: Path) -> list[str]:
    """Write the comparison and the report of evaluated models into ``output``; seeds are repetitions of a model.

    Returns:
        What it says, in sentences.
    """
    first = {model.name: model for model in reversed(models)}  # of each model one seed
    if len(first) < 2:
        return [f"{', '.join(first)}: nothing to compare with"]
    names = dict(zip(first, default_names([read_run(model) for model in first.values()]), strict=True))
    comparison = compare_results(models, output, names=[names[model.name] for model in models])
    return [*findings(comparison), f"Report: {output / 'report.html'}"]
