"""The end of a sweep: the models that are complete, evaluated and compared."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunetv2_mamba.evaluation.compare_results import compare_results
from nnunetv2_mamba.evaluation.evaluate_pairings import evaluate_pairings
from nnunetv2_mamba.evaluation.evaluated_model import read_evaluated_model
from nnunetv2_mamba.evaluation.measured_otherwise import measured_otherwise
from nnunetv2_mamba.evaluation.metric_options import MetricOptions
from nnunetv2_mamba.evaluation.pairings import Pairing, from_results
from nnunetv2_mamba.evaluation.provenance import newer_predictions
from nnunetv2_mamba.evaluation.report.wording import findings
from nnunetv2_mamba.results.model_names import short_names

from .training import Training

# Results folders, and of each the names of the folds (fold_0, ...) that the sweep has
Models = dict[Path, list[str]]


def complete_models(trainings: Iterable[Training], folder: Path) -> dict[str, Models]:
    """Find the models whose trainings are all finished, by what can be compared: data set and configuration.

    A model that was trained with several seeds has a folder for each.
    """
    trainings = list(trainings)
    unfinished = {(training.dataset, training.model) for training in trainings if not training.finished(folder)}
    found: dict[str, Models] = {}
    for training in trainings:
        if (training.dataset, training.model) not in unfinished:
            models = found.setdefault(f"{training.dataset}__{training.configuration}", {})
            models.setdefault(training.folder(folder).parent, []).append(training.folder(folder).name)
    return found


def evaluate_models(models: Models) -> None:
    """Write ``evaluation.csv`` and ``.json`` into the validation folders of the models' folds; resumes.

    A fold that a user has evaluated in another way, with ``--add`` or another tolerance, is left as it is, unless
    it was predicted again since.

    Raises:
        ValueError, OSError: as ``from_results`` and ``evaluate_pairings``.
    """
    options = MetricOptions()
    folds = [model / fold for model, names in models.items() for fold in names]
    pairings = [pairing for fold in folds for pairing in from_results(fold)]
    if own := [pairing for pairing in pairings if not _is_the_users(pairing, options)]:
        evaluate_pairings(own, options)


def _is_the_users(pairing: Pairing, options: MetricOptions) -> bool:
    folder = pairing.output
    return bool(measured_otherwise(folder, options)) and not newer_predictions(folder, read_evaluated_model(folder))


def compare_models(models: Models, output: Path) -> list[str]:
    """Write the comparison and the report of evaluated models into ``output``; seeds are repetitions of a model.

    Models are compared on the folds that all of them have, with those of these folds that a seed has.

    Returns:
        What it says, in sentences.

    Raises:
        ValueError, OSError: as ``evaluation.compare_results``.
    """
    first: dict[str, Path] = {}  # of each model one seed
    for model in models:
        first.setdefault(model.name, model)
    if len(first) < 2:
        return [f"{', '.join(first)}: nothing to compare with"]
    folds = {name: {fold for model, own in models.items() if model.name == name for fold in own} for name in first}
    common = set.intersection(*folds.values())
    if not common:
        return [f"{', '.join(first)}: have no fold in common, so they are not compared"]
    some = sorted(set.union(*folds.values()) - common)
    notes = [f"Compared without {', '.join(some)}, which not all models have"] if some else []
    compared = {model: own for model, found in models.items() if (own := common & {*found})}
    names = dict(zip(first, short_names([*first.values()]), strict=True))
    comparison = compare_results(
        [*compared], output, names=[names[model.name] for model in compared], folds=[*compared.values()]
    )
    return [*notes, *findings(comparison), f"Report: {output / 'report.html'}"]
