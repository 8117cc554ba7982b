"""nnU-Net's planner for the networks of this package: its rules, with a traced estimate of the memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.paths import nnUNet_preprocessed
from nnunetv2.utilities.json_export import recursive_fix_for_json_export
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_mamba.architectures.from_plans import stage_arguments, with_options
from nnunetv2_mamba.architectures.registry import NETWORKS, RegisteredNetwork
from nnunetv2_mamba.files import write_json
from nnunetv2_mamba.memory.estimate import GIB, MemoryEstimate, architecture_memory, plan_memory, usable_bytes
from nnunetv2_mamba.trainers import FULL_LENGTH
from nnunetv2_mamba.trainers.base import nnUNetTrainerMamba

from .network_options import check_options

DEFAULT_GPU_MEMORY = 8  # GiB, as nnU-Net's own planner
CONFIGURATIONS = ("2d", "3d_fullres", "3d_lowres")
_MIN_BATCH = 2
_SMALLEST_PATCH = {2: 64**2, 3: 32**3}  # voxels; smaller ones, unless the images are, show too little to learn from
_HOPELESS = 1.25  # times the budget: what a patch may seem to need and still be traced
_UNLIMITED = 999999  # nnU-Net's number
# What decides how a case is preprocessed, in a plan's configuration
_PREPROCESSING = (
    "preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm", "resampling_fn_data",
    "resampling_fn_data_kwargs", "resampling_fn_seg", "resampling_fn_seg_kwargs",
)  # fmt: skip


class MambaPlanner(ExperimentPlanner):
    """Plans by nnU-Net's rules; a subclass says for which network.

    Spacing, median shape, pooling, the order in which a patch is made smaller, the batch size (at least 2, at most 5 %
    of the data set) and which configurations there are come from nnU-Net. Here are the network's stages and widths,
    and whether a patch fits: ``memory.training_memory`` of the network itself.

    Args:
        gpu_memory_target_in_gb: GiB of the GPU; see ``memory.usable_bytes`` for what of it is planned with.
        plans_name: default ``nnUNet<Network>Plans``.
        match: plans whose estimated memory each configuration may use, instead of the GPU's.
        options: of the network, to be written into the plans.
        others: see ``ExperimentPlanner``.

    Attributes:
        trainer: says network, options and optimiser.
        max_pool: how often an axis is halved at most.

    Raises:
        ValueError: if no patch fits, or only patches too small to learn from; for options that it does not have.
    """

    trainer: ClassVar[type[nnUNetTrainerMamba]]
    max_pool: ClassVar[int] = _UNLIMITED

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
        self._as_default = overwrite_target_spacing is None and not suppress_transpose
        # nnU-Net's loop compares "memory" with a reference; see static_estimate_VRAM_usage for what they are here.
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = 1
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = 1
        self.UNet_reference_val_corresp_GB = gpu_memory_target_in_gb
        self.UNet_min_batch_size = _MIN_BATCH
        self._budgets: dict[str, float] = {}
        self._nnunets_share = self.max_dataset_covered

    @classmethod
    def network_name(cls) -> str:
        return cls.trainer.__name__.removeprefix("nnUNetTrainer")

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise ValueError for options that the network does not have."""
        check_options(cls.network_name(), cls.trainer.network_class, cls.trainer.network_options, options)

    # one configuration

    def get_plans_for_configuration(
        self, spacing, median_shape, data_identifier: str, approximate_n_voxels_dataset: float, _cache: dict
    ) -> dict:
        """See nnU-Net's; the architecture is the network's."""
        self._spacing = tuple(float(s) for s in spacing)
        self._configuration = next(name for name in CONFIGURATIONS if data_identifier.endswith(name))
        self._traced: dict[tuple[int, ...], MemoryEstimate] = {}  # of the smallest batch, by patch
        self.max_dataset_covered = self._share_of_data_set(approximate_n_voxels_dataset)
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, {}
        )
        self._refuse_tiny(plan["patch_size"], median_shape)
        plan["architecture"] = self._architecture(plan["patch_size"], plan["architecture"]["arch_kwargs"])
        return plan

    def static_estimate_VRAM_usage(  # noqa: N802  (nnU-Net's name)
        self, patch_size, input_channels, output_channels, arch_class_name, arch_kwargs, arch_kwargs_req_import
    ) -> float:
        """The memory of one sample as a share of what there is: 1 / (largest batch that fits).

        nnU-Net's loop takes a smaller patch while two samples are more than its reference, here 1, and else a batch of
        reference / memory.
        """
        batch = self._largest_batch(tuple(int(size) for size in patch_size), arch_kwargs)
        return 1 / batch if batch else math.inf

    def _largest_batch(self, patch: tuple[int, ...], planned: dict[str, Any]) -> int:
        """0 where less than nnU-Net's smallest batch fits."""
        budget = self._budget()
        if len(self._topology(patch)[0]) < 2:
            self._raise_nothing_fits(patch, budget)
        if self._lower_bound(patch, planned) > _HOPELESS * budget:
            return 0
        estimate = self._trace(patch, _MIN_BATCH, planned)
        if estimate.total > budget:
            return 0
        batch = _MIN_BATCH
        while True:  # beyond the fixed part nothing grows faster than the batch, so the larger batch fits
            larger = int(batch * (budget - estimate.fixed) / (estimate.total - estimate.fixed))
            if larger <= batch:
                return batch
            batch, estimate = larger, self._trace(patch, larger, planned)

    def _lower_bound(self, patch: tuple[int, ...], planned: dict[str, Any]) -> float:
        """Roughly what a patch needs at least: the largest smaller one traced, scaled by its voxels.

        It spares most of the traces: nnU-Net's loop starts with patches far too large.
        """
        smaller = [tried for tried in self._traced if _inside(tried, patch)]
        if smaller:
            reference = max(smaller, key=math.prod)
        else:
            half = get_pool_and_conv_props(
                self._spacing, [-(-size // 2) for size in patch], self.UNet_featuremap_min_edge_length, _UNLIMITED
            )[3]
            reference = tuple(int(size) for size in half)
            if not _inside(reference, patch) or len(self._topology(reference)[0]) < 2:
                return 0
        estimate = self._trace(reference, _MIN_BATCH, planned)
        growing = estimate.total - estimate.fixed
        return estimate.fixed + growing * math.prod(patch) / math.prod(reference)

    def _trace(self, patch: tuple[int, ...], batch: int, planned: dict[str, Any]) -> MemoryEstimate:
        channels = len(self.dataset_json.get("channel_names") or self.dataset_json["modality"])
        labels = LabelManager(self.dataset_json["labels"], self.dataset_json.get("regions_class_order"))
        estimate = architecture_memory(
            self._architecture(patch, planned),
            (batch, channels, *patch),
            labels.num_segmentation_heads,
            self.trainer.recipe.optimizer,
        )
        if batch == _MIN_BATCH:
            self._traced[patch] = estimate
        return estimate

    def _topology(self, patch: Sequence[int]) -> tuple[tuple, tuple]:
        """Strides and kernel sizes, by nnU-Net's rule with the network's limit."""
        _, strides, kernels, _, _ = get_pool_and_conv_props(
            self._spacing, patch, self.UNet_featuremap_min_edge_length, self.max_pool
        )
        return strides, kernels

    def _architecture(self, patch: Sequence[int], planned: dict[str, Any]) -> dict[str, Any]:
        network = self.trainer.network_class
        strides, kernels = self._topology(patch)
        stages = {
            "n_stages": len(strides),
            "features_per_stage": self._plan_widths(len(strides)),
            "conv_op": planned["conv_op"],
            "kernel_sizes": kernels,
            "strides": strides,
        }
        options = {**self.options, **self.trainer.network_options}
        arguments = with_options(network, stage_arguments(network, stages), options, [int(size) for size in patch])
        return {
            "network_class_name": f"nnunetv2_mamba.architectures.{network.__name__}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op"],
        }

    def _plan_widths(self, n_stages: int) -> list[int]:
        """nnU-Net's."""
        widest = self.UNet_max_features_2d if len(self._spacing) == 2 else self.UNet_max_features_3d
        return [min(widest, self.UNet_base_num_features * 2**stage) for stage in range(n_stages)]

    def _share_of_data_set(self, n_voxels: float) -> float:
        """What a batch may hold of the data set: nnU-Net's share, or what the plans to match take if that is more."""
        if self.match is None:
            return self._nnunets_share
        plan = self.match.get_configuration(self._matched())
        return max(self._nnunets_share, plan.batch_size * math.prod(plan.patch_size) / n_voxels)

    def _matched(self) -> str:
        available = self.match.available_configurations
        return self._configuration if self._configuration in available else "3d_fullres"

    def _budget(self) -> float:
        if self.match is None:
            return usable_bytes(self.UNet_vram_target_GB)
        name = self._matched()
        if name not in self._budgets:
            self._budgets[name] = plan_memory(self.match, name, self.dataset_json)[0].total
        return self._budgets[name]

    def _raise_nothing_fits(self, patch: Sequence[int], budget: float) -> None:
        subject = f"{self.network_name()} {self._configuration}"
        if not self._traced:
            raise ValueError(
                f"{subject}: images of this data set allow patches of {tuple(patch)} voxels, too few for two stages of "
                "a network; leave this configuration to another network"
            )
        smallest = min(self._traced, key=math.prod)
        remedy = "choose another plan to match" if self.match else "give a larger --gpu-memory"
        raise ValueError(
            f"{subject} does not fit: {budget / GIB:.1f} GiB can be used, and even patches of {smallest} voxels "
            f"need {self._traced[smallest].total / GIB:.1f} GiB at batch size {_MIN_BATCH}; {remedy}"
        )

    def _refuse_tiny(self, patch: Sequence[int], image: Sequence[int]) -> None:
        dims = len(self._spacing)
        if self.match is None and math.prod(patch) < min(_SMALLEST_PATCH[dims], math.prod(image[:dims])):
            raise ValueError(
                f"{self.network_name()} {self._configuration}: of the {self._budget() / GIB:.1f} GiB that can be used, "
                f"patches of {' x '.join(map(str, patch))} voxels are the largest at batch size {_MIN_BATCH}, and they "
                f"show too little of an image to learn from; give a larger --gpu-memory"
            )

    # the plans file

    def generate_data_identifier(self, configuration_name: str) -> str:
        """nnU-Net's default for ``2d`` and ``3d_fullres``, which are preprocessed alike, so that data can be shared."""
        if self._as_default and configuration_name in ("2d", "3d_fullres"):
            return f"nnUNetPlans_{configuration_name}"
        return super().generate_data_identifier(configuration_name)

    def save_plans(self, plans: dict) -> None:
        """As nnU-Net's, which keeps configurations that the user added to the file; written whole or not at all."""
        recursive_fix_for_json_export(plans)
        folder = Path(nnUNet_preprocessed) / self.dataset_name
        file = folder / f"{self.plans_identifier}.json"
        for configuration in plans["configurations"].values():
            _use_own_folder_if_taken(configuration, folder, self.plans_identifier)
        if file.exists():
            planned = {*CONFIGURATIONS, "3d_cascade_fullres"}
            old = load_json(str(file))["configurations"]
            plans["configurations"].update({name: kept for name, kept in old.items() if name not in planned})
        write_json(file, plans, indent=4)


def _inside(smaller: Sequence[int], patch: Sequence[int]) -> bool:
    return len(smaller) == len(patch) and tuple(smaller) != tuple(patch) and all(map(int.__le__, smaller, patch))


def _use_own_folder_if_taken(configuration: dict[str, Any], folder: Path, plans_name: str) -> None:
    """Give a configuration preprocessed data of its own where another plan uses that name for other data."""
    identifier = configuration.get("data_identifier")
    wanted = [configuration.get(key) for key in _PREPROCESSING]
    for other in sorted(folder.glob("*Plans.json")):
        if identifier is None or other.stem == plans_name:
            continue
        for name, theirs in load_json(str(other)).get("configurations", {}).items():
            same_data = theirs.get("data_identifier") == identifier
            if same_data and [theirs.get(key) for key in _PREPROCESSING] != wanted:
                configuration["data_identifier"] = f"{plans_name}_{name}"
                print(f"{other.name} preprocesses {identifier} in another way; using {plans_name}_{name} instead")
                return


def planner_of(network: RegisteredNetwork) -> type[MambaPlanner]:
    """The planner of a registered network: ``nnUNetPlannerSegMamba``, for example."""
    stages = "As many stages as nnU-Net has." if network.max_pool is None else f"At most {network.max_pool + 1} stages."
    members = {
        "__module__": __name__,
        "__doc__": stages,
        "trainer": FULL_LENGTH[f"nnUNetTrainer{network.name}"],
        "max_pool": _UNLIMITED if network.max_pool is None else network.max_pool,
    }
    return type(f"nnUNetPlanner{network.name}", (MambaPlanner,), members)


PLANNERS = {name: planner_of(network) for name, network in NETWORKS.items()}
