"""What the folders of a model say about its training: plans, folds, costs, learning curves.

Reads text and JSON only; checkpoints stay closed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from ...files import read_json_object
from ..folds import fold_folders, validations
from ..tables import CSV, JSON

COST = "cost.json"
_EVALUATION_BYTES = 1 << 32  # a thousand cases of a hundred labels take 50 MB
CURVES = {"Pseudo dice": "validation Dice of patches", "train_loss": "training loss", "val_loss": "validation loss"}
_LINE = re.compile(rf"^[-\d]+ [:.\d]+: (Epoch|{'|'.join(CURVES)}) (.+)$")
_NUMBER = re.compile(r"(?:nan|[-+.\de]+)(?=[,)\]])")  # in [np.float32(0.5), np.float32(nan)] and in [0.5, nan]


@dataclass(frozen=True)
class Fold:
    """A trained fold.

    Attributes:
        curves: by the names of ``CURVES``: value by epoch.
        cost: what ``cost.json`` holds; empty where there is none.
        debug: what nnU-Net's ``debug.json`` holds.
        unread_logs: training logs, where no epoch was found in any of them.
    """

    name: str
    curves: dict[str, dict[int, float]]
    cost: dict
    debug: dict
    unread_logs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Run:
    """A path given to ``compare``.

    Attributes:
        dataset, trainer, plans_name, configuration: from nnU-Net's folder names, None for other paths.
        plans, dataset_json: what nnU-Net's ``plans.json`` and ``dataset.json`` hold, else empty.
        cases: ``reference_file`` and ``prediction_file`` by case, where ``evaluate`` has written them.
        cases_of: the cases, by the folder of the table.
        evaluations: how ``evaluate`` measured, by the folder of the table; empty where it is not recorded.
    """

    path: Path
    dataset: str | None
    trainer: str | None
    plans_name: str | None
    configuration: str | None
    plans: dict
    dataset_json: dict
    folds: tuple[Fold, ...]
    cases: dict[str, tuple[Path, Path]]
    cases_of: dict[Path, list[str]]
    evaluations: dict[Path, dict]


def read_run(path: Path) -> Run:
    """Read what is there of a results folder, a folder of predictions, or nothing, for a CSV file."""
    parts = path.name.split("__")
    is_results = len(parts) == 3 and any(path.glob("fold_*"))
    folds = fold_folders(path) if is_results else []
    cases, cases_of, evaluations = {}, {}, {}
    for folder in _folders_of_tables(path):
        content = _json(folder / JSON, _EVALUATION_BYTES)
        try:
            evaluations[folder] = {**content.get("evaluation", {})}
            found = {
                case["case"]: (Path(case["reference_file"]), Path(case["prediction_file"]))
                for case in content.get("metric_per_case", [])
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"{folder / JSON} is not what evaluate writes ({error!r}); evaluate again") from error
        cases_of[folder] = list(found)
        cases |= found
    return Run(
        path=path,
        dataset=path.parent.name if is_results else None,
        trainer=parts[0] if is_results else None,
        plans_name=parts[1] if is_results else None,
        configuration=parts[2] if is_results else None,
        plans=_json(path / "plans.json"),
        dataset_json=_json(path / "dataset.json"),
        folds=tuple(_read_fold(folder) for folder in folds),
        cases=cases,
        cases_of=cases_of,
        evaluations=evaluations,
    )


def _folders_of_tables(path: Path) -> list[Path]:
    """Where ``tables.read_metrics`` finds the tables; a file that was renamed belongs to no folder."""
    if path.is_file():
        return [path.parent] if path.name == CSV else []
    return [path] if (path / CSV).is_file() else validations(path) or [*path.glob("validation")]


def default_names(runs: list[Run]) -> list[str]:
    """Short names: of trainer, plans and configuration only what differs, else the folder's name.

    Raises:
        ValueError: if two get the same name.
    """
    fields = ("trainer", "plans_name", "configuration")
    if all(run.trainer for run in runs):
        differing = [field for field in fields if len({getattr(run, field) for run in runs}) > 1] or ["trainer"]
        # SegMamba is enough for nnUNetTrainerSegMamba; nnUNetTrainer_5epochs stays
        names = [
            re.sub(r"^nnUNetTrainer(?=[A-Z])", "", ", ".join(getattr(run, field) for field in differing))
            for run in runs
        ]
    else:
        paths = [run.path.resolve() for run in runs]
        names = [path.parent.name if path.stem == "evaluation" else path.stem for path in paths]
    if len(set(names)) < len(names):
        raise ValueError(
            f"several results would be called the same ({', '.join(names)}): give --names, one for each; the same name "
            "twice for repetitions of one model, such as seeds"
        )
    return names


def curve_of(folds: list[Fold], name: str) -> dict[int, float]:
    """Mean over the folds that have reached an epoch, by epoch."""
    curves = [fold.curves[name] for fold in folds]
    epochs = sorted({epoch for curve in curves for epoch in curve})
    return {epoch: fmean(curve[epoch] for curve in curves if epoch in curve) for epoch in epochs}


COSTS = {
    "parameters": ("parameters [million]", 1e6),
    "flops": ("forward pass of a patch [GFLOP]", 1e9),
    "seconds_per_epoch": ("time per epoch [s]", 1),
    "peak_memory.allocated_bytes": ("peak GPU memory, allocated [GiB]", 2**30),
    "peak_memory.reserved_bytes": ("peak GPU memory, reserved [GiB]", 2**30),
    "peak_memory.process_bytes": ("peak memory of the process [GiB]", 2**30),
    "energy_joules": ("energy of a training [kWh]", 3.6e6),
}


def costs(runs: list[Run]) -> dict[str, float]:
    """The costs of a model, medians over its folds, by the keys of ``COSTS`` and in their units; what is not known is
    left out."""
    found = {}
    for key, (_, unit) in COSTS.items():
        values = []
        for fold in (fold for run in runs for fold in run.folds):
            value = fold.cost
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if isinstance(value, int | float):
                values.append(value / unit)
        if values:
            found[key] = median(values)
    return found


def _read_fold(folder: Path) -> Fold:
    curves: dict[str, dict[int, float]] = {name: {} for name in CURVES}
    # A continued training has several logs, the later one holds. Their names have no leading zeros: 2026_9_30
    logs = sorted(
        folder.glob("training_log_*.txt"), key=lambda log: [int(number) for number in re.findall(r"\d+", log.name)]
    )
    for log in logs:
        epoch = 0
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
            if not (match := _LINE.match(line.rstrip())):
                continue
            key, text = match.groups()
            if key == "Epoch":
                epoch = int(text) if text.isdecimal() else epoch
                continue
            numbers = [float(number) for number in _NUMBER.findall(f"{text},")]
            numbers = [number for number in numbers if number == number]
            if numbers:
                curves[key][epoch] = fmean(numbers)
    unread = () if any(curves.values()) else tuple(logs)
    return Fold(folder.name.removeprefix("fold_"), curves, _json(folder / COST), _json(folder / "debug.json"), unread)


def _json(path: Path, limit: int = 1 << 26) -> dict:
    """The content of a file, empty where there is none.

    Raises:
        ValueError: if it is no JSON object.
    """
    if not path.exists():
        return {}
    try:
        return read_json_object(path, limit)
    except ValueError as error:
        raise ValueError(f"{error}; make it again or delete it") from error
