"""How the tables of a comparison came about: an error where they were not measured alike, notes for the reader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..results.folds import TRAINING_CASES, is_of_training_cases, note_on_left_out
from ..text import first_few
from .evaluated_model import EvaluatedModel
from .metric_options import LABELS
from .metrics import METRICS
from .tables import CSV


def check_alike(models: Sequence[EvaluatedModel], metrics: Iterable[str]) -> None:
    """Check that all tables were measured alike. Folders that record nothing pass; ``notes`` names them.

    Raises:
        ValueError: some tables were measured with other options or labels than others, in what the metrics depend on.
    """
    problems = []
    settings = [setting for name in metrics if name in METRICS for setting in METRICS[name].settings]
    for setting in dict.fromkeys([*settings, LABELS]):
        found = _by_value(models, setting.key)
        if len(found) > 1:
            unit = f" [{setting.unit}]" if setting.unit else ""
            problems.append(f"{setting.name}{unit} differs: {_with_places(found)}")
    if problems:
        raise ValueError(
            f"the results were not measured alike: {'; '.join(problems)}. Evaluate them again with the same options "
            "and labels (nnunetv2_mamba evaluate), or compare other metrics"
        )


def notes(models: Sequence[EvaluatedModel]) -> list[str]:
    """Write of cases that were trained on, tables older than the predictions, and differences that may matter."""
    found = []
    for model in models:
        found.append(note_on_left_out(model.path))
        if any(
            record.get("training_cases") or is_of_training_cases(folder) for folder, record in model.evaluations.items()
        ):
            found.append(f"{model.path}: {TRAINING_CASES}")
        recorded = [record.get("notes") for record in model.evaluations.values()]
        found += dict.fromkeys(f"{model.path}: {note}" for own in recorded if isinstance(own, list) for note in own)
        found += [
            f"{folder / CSV} is older than {first_few(newer, 3)}: if that was predicted again, evaluate again"
            for folder in model.evaluations
            if (newer := newer_predictions(folder, model))
        ]
        if unread := [log for fold in model.folds for log in fold.unread_logs]:
            found.append(f"no epoch was found in {first_few(unread, 3)}: no learning curves of these folds")
        if refused := [fold.unread_checkpoint for fold in model.folds if fold.unread_checkpoint]:
            found.append(
                f"no learning curves from checkpoints, but from text logs, as far as there are any: "
                f"{first_few(refused, 3, '; ')}"
            )
        if not model.evaluations or not all(model.evaluations.values()):
            found.append(f"{model.path}: not recorded how it was measured, so whether as the others is not known")
    versions = _by_value(models, "versions")
    if len(versions) > 1:
        found.append(f"measured with different versions: {_with_places(versions)}")
    changed, elsewhere = _other_references(models)
    if changed:
        found.append(f"measured against references that differ, byte for byte: {changed}: if labels do, evaluate again")
    if elsewhere:
        found.append(f"measured against different reference files (copies, if all is well): {elsewhere}")
    return [f"{note}." for note in found if note]


def _by_value(models: Sequence[EvaluatedModel], key: str) -> dict[str, list[Path]]:
    """Find the recorded values and where they hold: for all of a model, or for single folders of it."""
    found: dict[str, list[Path]] = {}
    for model in models:
        values = {folder: _shown(record[key]) for folder, record in model.evaluations.items() if key in record}
        if len({*values.values()}) == 1:
            values = {model.path: next(iter(values.values()))}
        for path, value in values.items():
            found.setdefault(value, []).append(path)
    return found


def _shown(value: object) -> str:
    """Write a value, with the same text for dicts in another order."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def newer_predictions(folder: Path, model: EvaluatedModel) -> list[Path]:
    """Find the predictions of a folder's table that were written after it, where they still are.

    Copies are as new as the copying; they are not meant where it is recorded what was measured.
    """
    written = (folder / CSV).stat().st_mtime
    return [
        file
        for case in model.cases_of.get(folder, ())
        if (file := model.cases[case][1]).is_file()
        and file.stat().st_mtime > written
        and hashlib.sha256(file.read_bytes()).hexdigest() != model.digests[case][1]
    ]


def _other_references(models: Sequence[EvaluatedModel]) -> tuple[str, str]:
    """Name the first case whose reference was not the same in all models, and say how many there are.

    Returns:
        Of those that differ in what they hold; and of those that are other files and not known to hold the same.
    """
    measured: dict[str, list[tuple[Path, str]]] = {}
    for model in models:
        for case, (reference, _) in model.cases.items():
            measured.setdefault(case, []).append((reference.resolve(), model.digests[case][0]))
    changed, elsewhere = {}, {}
    for case, own in measured.items():
        files, digests = (list(dict.fromkeys(part)) for part in zip(*own, strict=True))
        if len({*digests} - {""}) > 1:
            changed[case] = files
        elif len(files) > 1 and "" in digests:
            elsewhere[case] = files
    return _first_case(changed), _first_case(elsewhere)


def _first_case(files: dict[str, list[Path]]) -> str:
    if not files:
        return ""
    case, found = next(iter(files.items()))
    more = f", and {len(files) - 1} more cases" if files.keys() - {case} else ""
    return f"case {case}: {first_few(found, 3)}{more}"


def _with_places(found: dict[str, list[Path]]) -> str:
    return " / ".join(f"{value} ({first_few(paths, 3)})" for value, paths in found.items())
