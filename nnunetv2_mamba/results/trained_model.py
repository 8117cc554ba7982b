"""What the folder of a model says of its training: plans, folds, costs, learning curves."""

from __future__ import annotations

import pickle
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..files import read_optional_json
from ..json_numbers import is_finite_number
from ..nnunet.names import FINAL_CHECKPOINT, LATEST_CHECKPOINT
from ..nnunet.planned_configuration import planned_configuration
from ..text import excerpt
from .folds import COST, DEBUG, fold_folders
from .model_names import ModelName, spelled_out
from .nnunet_log import Curves, curves_of_checkpoint, curves_of_text, text_logs


@dataclass(frozen=True)
class Fold:
    """What is known of a trained fold.

    Attributes:
        name: ``"0"``, ``"1"``, ... or ``"all"``.
        curves: of the last checkpoint, and from the text logs what it does not hold.
        cost: what ``cost.json`` holds; empty where there is none.
        debug: what nnU-Net's ``debug.json`` holds.
        unread_logs: text logs, where no epoch was found in any of them and no checkpoint holds one.
        unread_checkpoint: why the last checkpoint gave no curves, naming it: it is damaged, holds more than plain data
            or no log.
    """

    name: str
    curves: Curves
    cost: dict
    debug: dict
    unread_logs: tuple[Path, ...] = ()
    unread_checkpoint: str | None = None

    @property
    def seed(self) -> int | None:
        """The seed, which a benchmark alone sets."""
        return self.cost.get("seed")

    @property
    def epochs(self) -> int | str | None:
        """How many epochs the training was to have."""
        return self.cost.get("epochs") or self.debug.get("num_epochs")

    @property
    def hardware(self) -> str | None:
        """The name of the device that it was trained on."""
        return self.cost.get("device") or self.debug.get("gpu_name") or self.debug.get("device")

    @property
    def versions(self) -> dict[str, str | None]:
        """The versions of the packages that it was trained with."""
        return self.cost.get("versions") or {"torch": self.debug.get("torch_version")}


@dataclass(frozen=True)
class TrainedModel:
    """A path that stands for a model: its folder of nnU-Net's results, or another one, of which less is known.

    Attributes:
        dataset, name: from nnU-Net's names of folders, None for other paths.
        plans, dataset_json: what nnU-Net's ``plans.json`` and ``dataset.json`` hold, else empty.
    """

    path: Path
    dataset: str | None
    name: ModelName | None
    plans: dict
    dataset_json: dict
    folds: tuple[Fold, ...]

    @property
    def configuration(self) -> dict:
        """What the plans say of the configuration, with what it inherits; what they do not have is left out.

        Raises:
            ValueError: for a patch size or a spacing that is no list of numbers, naming the file.
        """
        found = planned_configuration(self.plans, self.name and self.name.configuration)
        for key in ("patch_size", "spacing"):
            sizes = found.get(key, [])
            if not isinstance(sizes, list) or not all(map(is_finite_number, sizes)):
                raise ValueError(
                    f"{self.path / 'plans.json'}: {key!r} must be a list of numbers, not {excerpt(sizes)}; take the "
                    "file that the training left"
                )
        return found


def read_trained_model(path: Path, folds: Collection[str] | None = None) -> TrainedModel:
    """Read what there is in the folder of a model.

    Args:
        path: its folder.
        folds: names of those that are read; None for all.

    Raises:
        ValueError: for a JSON file that is damaged, naming it.
    """
    name = ModelName.of_folder(path)
    return TrainedModel(
        path=path,
        dataset=spelled_out(path).parent.name if name else None,
        name=name,
        plans=read_optional_json(path / "plans.json"),
        dataset_json=read_optional_json(path / "dataset.json"),
        folds=tuple(map(_read_fold, fold_folders(path, folds))) if name else (),
    )


def curves_of_folds(trainings: Iterable[TrainedModel], name: str) -> list[dict[int, float]]:
    """Take each fold's curve, in which a fold's trainings with several seeds are one: their mean."""
    by_fold = defaultdict(list)
    for training in trainings:
        for fold in training.folds:
            by_fold[fold.name].append(fold.curves[name])
    return [mean_curve(seeds) for seeds in by_fold.values()]


def mean_curve(curves: Collection[dict[int, float]]) -> dict[int, float]:
    """Take the mean over the curves that have reached an epoch, by epoch."""
    epochs = sorted({epoch for curve in curves for epoch in curve})
    return {epoch: fmean(curve[epoch] for curve in curves if epoch in curve) for epoch in epochs}


def _read_fold(folder: Path) -> Fold:
    # nnU-Net removes the latest one when a training ends: a newer one is of a training that goes on for longer
    checkpoints = filter(Path.is_file, (folder / FINAL_CHECKPOINT, folder / LATEST_CHECKPOINT))
    checkpoint = max(checkpoints, key=lambda file: file.stat().st_mtime_ns, default=None)
    curves, unread_checkpoint = {}, None
    try:
        curves = curves_of_checkpoint(checkpoint) if checkpoint else {}
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        unread_checkpoint = str(error)
    cost = read_optional_json(folder / COST)
    if not isinstance(cost.get("versions") or {}, dict):
        raise ValueError(f"{folder / COST}: 'versions' must be an object; make the file again or delete it")
    logs = text_logs(folder)
    if not any(curves.values()) or checkpoint.name == LATEST_CHECKPOINT:  # epochs may have come after it
        written = curves_of_text(logs)
        curves = {name: written[name] | curves.get(name, {}) for name in written}
    return Fold(
        name=folder.name.removeprefix("fold_"),
        curves=curves,
        cost=cost,
        debug=read_optional_json(folder / DEBUG),
        unread_logs=() if any(curves.values()) else tuple(logs),
        unread_checkpoint=unread_checkpoint,
    )
