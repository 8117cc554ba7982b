"""nnU-Net's planner, asked for the largest batch that fits instead of an estimate of the memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from .names import CONFIGURATIONS

MIN_BATCH = 2
UNLIMITED = 999999  # nnU-Net's number of halvings


class LargestBatchPlanner(ExperimentPlanner):
    """Plans by nnU-Net's rules but for what ``search_of`` a configuration answers.

    That is ``fitting(patch)``, the patch around this one that the network takes; ``largest_batch(patch)`` of those, 0
    where less than ``MIN_BATCH`` fits; ``architecture(patch)``, as a plan has it; ``share_of_data_set(voxels)``, what a
    batch may hold of it.

    nnU-Net's loop makes the patch smaller while its estimate for ``MIN_BATCH`` samples is above a reference, and then
    takes reference / estimate as the batch size. Here the reference is 1 and the estimate 1 / (largest batch).
    """

    def __init__(self, dataset_name_or_id: str | int, gpu_memory_target_in_gb: float, *args: Any):
        super().__init__(dataset_name_or_id, gpu_memory_target_in_gb, *args)
        self.UNet_reference_val_2d = self.UNet_reference_val_3d = 1
        self.UNet_reference_val_corresp_bs_2d = self.UNet_reference_val_corresp_bs_3d = 1
        self.UNet_reference_val_corresp_GB = gpu_memory_target_in_gb
        self.UNet_min_batch_size = MIN_BATCH
        self.nnunets_share = self.max_dataset_covered

    def search_of(self, configuration: str, spacing: tuple[float, ...]) -> Any:
        """The search for the patch of ``configuration``, on images of this spacing in mm."""
        raise NotImplementedError

    def get_plans_for_configuration(
        self, spacing, median_shape, data_identifier: str, approximate_n_voxels_dataset: float, _cache: dict
    ) -> dict:
        """As nnU-Net's, which says in the identifier alone which configuration it is; the architecture is the
        search's."""
        configuration = next(name for name in CONFIGURATIONS if data_identifier.endswith(name))
        self.search = self.search_of(configuration, tuple(float(size) for size in spacing))
        self.max_dataset_covered = self.search.share_of_data_set(approximate_n_voxels_dataset)
        plan = super().get_plans_for_configuration(
            spacing, median_shape, data_identifier, approximate_n_voxels_dataset, {}
        )
        self._fit_patch(plan, approximate_n_voxels_dataset * self.max_dataset_covered)
        plan["architecture"] = self.search.architecture(plan["patch_size"])
        return plan

    def _fit_patch(self, plan: dict, most_voxels: float) -> None:
        """Make the patch so large that the network takes it, and the batch no larger than nnU-Net's share allows."""
        fitting = self.search.fitting(plan["patch_size"])
        if fitting != tuple(plan["patch_size"]):
            most = round(most_voxels / math.prod(fitting))
            plan.update(patch_size=fitting, batch_size=max(MIN_BATCH, min(int(plan["batch_size"]), most)))

    def static_estimate_VRAM_usage(self, patch_size: Sequence[int], *_: Any) -> float:  # noqa: N802  (nnU-Net's name)
        """One sample's share of what there is."""
        batch = self.search.largest_batch(tuple(int(size) for size in patch_size))
        return 1 / batch if batch else math.inf

    def topology(
        self, spacing: Sequence[float], patch: Sequence[int], max_pool: int = UNLIMITED
    ) -> tuple[tuple, tuple, tuple[int, ...]]:
        """Strides and kernel sizes of the stages by nnU-Net's rule, at most ``max_pool`` of which halve axes, and the
        patch made so large that they divide it."""
        _, strides, kernels, padded, _ = get_pool_and_conv_props(
            spacing, patch, self.UNet_featuremap_min_edge_length, max_pool
        )
        # The rule limits each axis by itself: one of thick slices, halved later than the others, would go on alone.
        if len(strides) > max_pool + 1:
            strides, kernels = strides[: max_pool + 1], (*kernels[:max_pool], kernels[-1])
        return strides, kernels, tuple(int(size) for size in padded)

    def widths(self, n_axes: int, n_stages: int) -> list[int]:
        """Features per stage of nnU-Net's own networks."""
        widest = self.UNet_max_features_2d if n_axes == 2 else self.UNet_max_features_3d
        return [min(widest, self.UNet_base_num_features * 2**stage) for stage in range(n_stages)]
