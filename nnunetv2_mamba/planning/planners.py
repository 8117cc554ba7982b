"""nnU-Net's planner for the networks of this package: its rules, with a traced estimate of the memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.architectures.registry import NETWORKS, RegisteredNetwork
from nnunetv2_mamba.files import write_json
from nnunetv2_mamba.nnunet.largest_batch_planner import UNLIMITED, LargestBatchPlanner
from nnunetv2_mamba.nnunet.names import CONFIGURATIONS
from nnunetv2_mamba.nnunet.plans_files import read_plans
from nnunetv2_mamba.trainers import FULL_LENGTH
from nnunetv2_mamba.trainers.base import nnUNetTrainerMamba

from ..untrusted.plans import check_untrusted_plans
from .batch_search import BatchSearch
from .data_folders import settle_data_folders
from .network_options import WIDTHS, check_values, of_stages

DEFAULT_GPU_MEMORY = 8  # GiB, as nnU-Net's own planner


class MambaPlanner(LargestBatchPlanner):
    """Plans by nnU-Net's rules; a subclass says for which network.

    Spacing, median shape, pooling, the order in which a patch is made smaller, the batch size (at least 2, at most 5 %
    of the data set) and which configurations there are come from nnU-Net. Here are the network's stages and widths,
    and whether a patch fits: ``memory.estimate.training_memory`` of the network itself.

    Args:
        gpu_memory_target_in_gb: GiB of the GPU; see ``memory.estimate.usable_bytes`` for what of it is planned with.
        plans_name: default ``nnUNet<Network>Plans``.
        match: plans whose estimated memory each configuration may use, instead of the GPU's.
        options: of the network, to be written into the plans.
        others: see ``ExperimentPlanner``.

    Attributes:
        trainer: says network, options and optimiser.
        max_pool: how many stages halve axes at most; the option ``features_per_stage`` may leave less to an instance.

    Raises:
        ValueError: if no patch fits, or only patches too small to learn from; for options that it does not have.
    """

    trainer: ClassVar[type[nnUNetTrainerMamba]]
    max_pool: int = UNLIMITED

    def __init__(
        self,
        dataset_name_or_id: str | int,
        gpu_memory_target_in_gb: float = DEFAULT_GPU_MEMORY,
        preprocessor_name: str = "DefaultPreprocessor",
        plans_name: str | None = None,
        overwrite_target_spacing: Sequence[float] | None = None,
        suppress_transpose: bool = False,
        match: PlansManager | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ):
        self.check_options(options)
        super().__init__(
            dataset_name_or_id,
            gpu_memory_target_in_gb,
            preprocessor_name,
            plans_name or f"nnUNet{self.network_name()}Plans",
            overwrite_target_spacing,
            suppress_transpose,
        )
        self.match, self.options = match, options
        if WIDTHS in options:
            self.max_pool = min(self.max_pool, len(options[WIDTHS]) - 1)

    @classmethod
    def network_name(cls) -> str:
        return cls.trainer.__name__.removeprefix("nnUNetTrainer")

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Refuse what is no option of the network, or would make it another one than the trainer's.

        Raises:
            ValueError: naming the option. Most values are checked by the network's constructor only.
        """
        name, network_class, fixed = cls.network_name(), cls.trainer.network_class, cls.trainer.network_options
        known = [option for option in [*network_class.plain_option_names(), WIDTHS] if option not in fixed]
        switches = {key for key, parameter in network_class.options().items() if isinstance(parameter.default, bool)}
        for key, value in options.items():
            if key in fixed and fixed[key] != value:
                raise ValueError(f"--option {key}={value}: {name} is {network_class.__name__} with {key}={fixed[key]}")
            if key not in known and key not in fixed:
                raise ValueError(f"--option {key}: {name} has the options {', '.join(known)}")
            if key in switches and not isinstance(value, bool):  # any other word would switch it on
                raise ValueError(f"--option {key}={value}: write true or false")
        check_values(options)

    def options_of(self, n_stages: int) -> dict[str, Any]:
        """The options of a network of so many stages: first entries of the lists of the user, and the trainer's."""
        missing = {WIDTHS: 0, **self.trainer.network_class.missing_stages}
        entries = {name: n_stages - without for name, without in missing.items()}
        return {**of_stages(self.options, entries), **self.trainer.network_options}

    def search_of(self, configuration: str, spacing: tuple[float, ...]) -> BatchSearch:
        return BatchSearch(self, configuration, spacing)

    def get_plans_for_configuration(self, spacing, median_shape, *others: Any) -> dict:
        """As nnU-Net's; refuses a patch that shows too little to learn from."""
        plan = super().get_plans_for_configuration(spacing, median_shape, *others)
        self.search.refuse_tiny(plan["patch_size"], median_shape)
        return plan

    def generate_data_identifier(self, configuration_name: str) -> str:
        """nnU-Net's default for ``2d`` and ``3d_fullres``, which are preprocessed alike, so that data can be shared."""
        as_default = self.overwrite_target_spacing is None and not self.suppress_transpose
        if as_default and configuration_name in ("2d", "3d_fullres"):
            return f"nnUNetPlans_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def save_plans(self, plans: dict) -> None:
        """As nnU-Net's, which keeps configurations that the user added to the file; written whole or not at all.

        Data that the file's plans had preprocessed in another way are removed before (``settle_data_folders``).

        Raises:
            OSError: if files cannot be read, written or removed.
            ValueError: for kept configurations that ``check_untrusted_plans`` refuses; see ``settle_data_folders``.
        """
        recursive_fix_for_json_export(plans)
        file = Path(nnUNet_preprocessed) / self.dataset_name / f"{self.plans_identifier}.json"
        old = read_plans(file) if file.exists() else {}
        planned = {*CONFIGURATIONS, "3d_cascade_fullres"}
        kept = {name: own for name, own in old.get("configurations", {}).items() if name not in planned}
        if kept:  # their networks are built to count the memory
            check_untrusted_plans({**plans, "configurations": {**plans["configurations"], **kept}}, file)
        settle_data_folders(plans, old, file)
        plans["configurations"].update(kept)
        write_json(file, plans, indent=4)


def planner_of(network: RegisteredNetwork) -> type[MambaPlanner]:
    """The planner of a registered network: ``nnUNetPlannerSegMamba``, for example."""
    stages = "As many stages as nnU-Net has." if network.max_pool is None else f"At most {network.max_pool + 1} stages."
    members = {
        "__module__": __name__,
        "__doc__": stages,
        "trainer": FULL_LENGTH[f"nnUNetTrainer{network.name}"],
        "max_pool": UNLIMITED if network.max_pool is None else network.max_pool,
    }
    return type(f"nnUNetPlanner{network.name}", (MambaPlanner,), members)


PLANNERS = {name: planner_of(network) for name, network in NETWORKS.items()}
