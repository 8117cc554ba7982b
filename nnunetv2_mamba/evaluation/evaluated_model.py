"""A model that is compared: what is known of its training, and how ``evaluate`` measured it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from ..files import read_optional_json
from ..results.trained_model import TrainedModel, read_trained_model
from .tables import JSON, JSON_BYTES, folders_of_tables


@dataclass(frozen=True)
class EvaluatedModel(TrainedModel):
    """A path given to ``compare``.

    Attributes:
        cases: ``reference_file`` and ``prediction_file`` by case, where ``evaluate`` has written them. A prediction
            beside the table is the one that was measured, also where the folder was moved or copied since.
        digests: SHA-256 of the same two as they were measured; empty where older versions have not written it.
        cases_of: the cases, by the folder of the table.
        evaluations: how ``evaluate`` measured, by the folder of the table; empty where it is not recorded.
    """

    cases: dict[str, tuple[Path, Path]]
    digests: dict[str, tuple[str, str]]
    cases_of: dict[Path, list[str]]
    evaluations: dict[Path, dict]


Repetitions = dict[str, list[EvaluatedModel]]  # by the name of a model: its trainings with several seeds, or the one


def read_evaluated_model(path: Path, folds: Collection[str] | None = None) -> EvaluatedModel:
    """Read what is there of a model's folder of results, a folder of predictions, or nothing, for a CSV file.

    Args:
        path, folds: as for ``tables.read_metrics``.

    Raises:
        ValueError: for a file that is damaged, naming it.
    """
    cases, digests, cases_of, evaluations = {}, {}, {}, {}
    for folder in folders_of_tables(path, folds):
        content = read_optional_json(folder / JSON, JSON_BYTES)
        try:
            evaluations[folder] = {**content.get("evaluation", {})}
            per_case = content.get("metric_per_case", [])
            found = {
                case["case"]: (_path(case["reference_file"]), _beside(folder, _path(case["prediction_file"])))
                for case in per_case
            }
            digests |= {
                case["case"]: (str(case.get("reference_sha256", "")), str(case.get("prediction_sha256", "")))
                for case in per_case
            }
            if not isinstance(evaluations[folder].get("versions", {}), dict):
                raise ValueError("versions is no object")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / JSON} is not what evaluate writes ({error!r}); evaluate again") from error
        cases_of[folder] = list(found)
        cases |= found
    trained = read_trained_model(path, folds)
    return EvaluatedModel(**vars(trained), cases=cases, digests=digests, cases_of=cases_of, evaluations=evaluations)


def _path(text: str) -> Path:
    if "\0" in text:
        raise ValueError("a name of a file has a zero in it")
    return Path(text)


def _beside(folder: Path, file: Path) -> Path:
    beside = folder / file.name
    return beside if beside.is_file() else file
