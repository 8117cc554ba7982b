"""How the tables of a comparison came about: an error where they were not measured alike, notes for the reader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from .catalog import METRICS
from .folds import TRAINING_CASES, is_of_training_cases, left_out
from .report.runs import Run
from .tables import CSV

# What evaluate records and metrics may depend on
_SETTINGS = {
    "nsd_tolerance_mm": "the tolerance of NSD [mm]",
    "empty": "the rule for a structure in one image only",
    "labels": "the labels behind the structures' names",
}


def check_alike(runs: Sequence[Run], metrics: Iterable[str]) -> None:
    """Folders that record nothing pass; ``notes`` names them.

    Raises:
        ValueError: some tables were measured with other options or labels than others, in what the metrics depend on.
    """
    problems = []
    depends_on = {"labels"}.union(*(METRICS[name].settings for name in metrics if name in METRICS))
    for key, what in _SETTINGS.items():
        found = _by_value(runs, lambda record, key=key: record.get(key))
        if key in depends_on and len(found) > 1:
            problems.append(f"{what} differs: {_listed(found)}")
    if problems:
        raise ValueError(
            f"the results were not measured alike: {'; '.join(problems)}. Evaluate them again with the same options "
            "and labels (nnunetv2_mamba evaluate), or compare other metrics"
        )


def notes(runs: Sequence[Run]) -> list[str]:
    """Sentences on cases that were trained on, tables older than the predictions, and differences that may matter."""
    found = []
    for run in runs:
        found.append(left_out(run.path))
        if any(
            record.get("training_cases") or is_of_training_cases(folder) for folder, record in run.evaluations.items()
        ):
            found.append(f"{run.path}: {TRAINING_CASES}")
        said = {folder: record.get("notes") for folder, record in run.evaluations.items()}
        found += dict.fromkeys(f"{run.path}: {note}" for own in said.values() if isinstance(own, list) for note in own)
        found += [
            f"{folder / CSV} is older than {_some(newer)}: if that was predicted again, evaluate again"
            for folder in run.evaluations
            if (newer := _newer_predictions(folder, run))
        ]
        if unread := [log for fold in run.folds for log in fold.unread_logs]:
            found.append(f"no epoch was found in {_some(unread)}: no learning curves of these folds")
        if not run.evaluations or not all(run.evaluations.values()):
            found.append(f"{run.path}: not recorded how it was measured, so whether as the others is not known")
    versions = _by_value(runs, lambda record: record.get("versions"))
    if len(versions) > 1:
        found.append(f"measured with different versions: {_listed(versions)}")
    if others := _other_references(runs):
        found.append(f"measured against different reference files (copies, if all is well): {others}")
    return [f"{note}." for note in found if note]


def _by_value(runs: Sequence[Run], of: Callable[[dict], object]) -> dict[str, list[Path]]:
    """Recorded values and where they hold: for all of a run, or for single folders of it."""
    found: dict[str, list[Path]] = {}
    for run in runs:
        values = {folder: _shown(of(record)) for folder, record in run.evaluations.items() if of(record) is not None}
        if len({*values.values()}) == 1:
            values = {run.path: next(iter(values.values()))}
        for path, value in values.items():
            found.setdefault(value, []).append(path)
    return found


def _shown(value: object) -> str:
    """The same text for dicts in another order."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in sorted(value.items()))
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _newer_predictions(folder: Path, run: Run) -> list[Path]:
    """Predictions of a folder's table that were written after it, where they still are."""
    table = folder / CSV
    if not table.is_file():
        return []
    written = table.stat().st_mtime
    recorded = [run.cases[case][1] for case in run.cases_of.get(folder, ())]
    files = [file if file.is_file() else folder / file.name for file in recorded]  # the folder may have been moved
    return [file for file in files if file.is_file() and file.stat().st_mtime > written]


def _other_references(runs: Sequence[Run]) -> str:
    """The first case whose reference is not the same file in all runs, and how many there are."""
    files: dict[str, dict[Path, None]] = {}
    for run in runs:
        for case, (reference, _) in run.cases.items():
            files.setdefault(case, {})[reference.resolve()] = None
    differing = {case: [*found] for case, found in files.items() if len(found) > 1}
    if not differing:
        return ""
    case, found = next(iter(differing.items()))
    more = f", and {len(differing) - 1} more cases" if differing.keys() - {case} else ""
    return f"case {case}: {_some(found)}{more}"


def _listed(found: dict[str, list[Path]]) -> str:
    return " / ".join(f"{value} ({_some(paths)})" for value, paths in found.items())


def _some(paths: Sequence[Path], most: int = 3) -> str:
    more = f" and {len(paths) - most} more" if len(paths) > most else ""
    return ", ".join(map(str, paths[:most])) + more
