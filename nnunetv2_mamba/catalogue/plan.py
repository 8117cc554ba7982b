"""The plan that costs are asked for."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from ..files import read_json_object
from ..nnunet_folders import nnunet_folder
from ..text import short_reason
from ..untrusted.plans import check_untrusted_plans

_MISUNDERSTOOD = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)  # nnU-Net's


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
    description_file = file.with_name("dataset.json")
    plan = Plan(manager, configuration, read_json_object(description_file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the plans are old
            planned = manager.get_configuration(configuration)
    except _MISUNDERSTOOD as error:
        raise ValueError(f"{file} holds no plans of nnU-Net: {short_reason(error)}") from error
    try:
        determine_num_input_channels(manager, planned, plan.dataset_json)
        manager.get_label_manager(plan.dataset_json)
    except _MISUNDERSTOOD as error:
        raise ValueError(f"{description_file} is no dataset.json of nnU-Net: {short_reason(error)}") from error
    return plan
