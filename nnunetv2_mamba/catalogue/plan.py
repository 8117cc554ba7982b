"""The plan that costs are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..files import read_json_object
from ..nnunet_folders import nnunet_folder
from ..untrusted_plans import check_untrusted_plans


class Plan(NamedTuple):
    """A configuration of plans, and the data set that they are for."""

    plans: PlansManager
    configuration: str
    dataset_json: dict[str, Any]


def read_plan(plans: str, configuration: str, dataset_id: int | None = None) -> Plan:
    """Read plans and the ``dataset.json`` beside them.

    Args:
        plans: a file; with ``dataset_id`` the name of plans in ``nnUNet_preprocessed``.

    Raises:
        ValueError: naming the file, or the configurations that there are.
        OSError: for a file that cannot be read.
    """
    file = Path(plans)
    if dataset_id is not None:
        folder = nnunet_folder("nnUNet_preprocessed") / maybe_convert_to_dataset_name(dataset_id)
        file = folder / f"{plans.removesuffix('.json')}.json"
    if not file.is_file():
        raise ValueError(f"there is no {file}; give -p the path of a plans file, or -d ID -p NAME")
    content = read_json_object(file)
    check_untrusted_plans(content, file)
    manager = PlansManager(content)
    if configuration not in manager.available_configurations:
        raise ValueError(f"{file} has no configuration {configuration}; -c one of {manager.available_configurations}")
    return Plan(manager, configuration, read_json_object(file.with_name("dataset.json")))
