"""How large a patch and a batch of one configuration may be, by traced estimates of the network's memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dynamic_network_architectures.building_blocks.helper import convert_dim_to_conv_op

from nnunetv2_mamba.architectures.from_plans import stage_arguments, with_options
from nnunetv2_mamba.architectures.topology import fitting_size
from nnunetv2_mamba.memory.estimate import GIB, MemoryEstimate, architecture_memory, usable_bytes
from nnunetv2_mamba.nnunet.largest_batch_planner import MIN_BATCH, UNLIMITED
from nnunetv2_mamba.text import short_reason, times

from .dataset_checks import channel_names, label_manager

if TYPE_CHECKING:
    from .planners import MambaPlanner

_SMALLEST_PATCH = {2: 64**2, 3: 32**3}  # voxels; smaller ones, unless the images are, show too little to learn from
_HOPELESS = 1.25  # times the budget: what a patch may seem to need and still be traced


class BatchSearch:
    """What fits of one configuration.

    Args:
        planner: says network, options, data set and the GPU's memory, or the plans to match.
        configuration: its name.
        spacing: of its images, in mm.
    """

    def __init__(self, planner: MambaPlanner, configuration: str, spacing: tuple[float, ...]):
        self.planner, self.trainer, self.spacing = planner, planner.trainer, spacing
        self.subject = f"{planner.network_name()} {configuration}"
        self.match, self.matched = planner.match, configuration
        if self.match is not None and configuration not in self.match.available_configurations:
            self.matched = "3d_fullres"
        self.budget = self._budget()
        self._traced: dict[tuple[int, ...], MemoryEstimate] = {}  # of the smallest batch, by patch

    def fitting(self, patch: Sequence[int]) -> tuple[int, ...]:
        """The patch around this one that the network takes: a larger one may have more stages, and so on."""
        given, patch = None, tuple(int(size) for size in patch)
        while patch != given:
            given = patch
            patch = fitting_size(given, self._stages(given)[0], self.trainer.network_class.takes_one_voxel)
        return patch

    def largest_batch(self, patch: tuple[int, ...]) -> int:
        """The largest batch of patches of this size that fits in the memory; 0 where less than ``MIN_BATCH`` does.

        Args:
            patch: nnU-Net's; what is tried is the patch around it that the network takes.

        Raises:
            ValueError: for a patch so small that smaller ones need not be tried.
        """
        if self._planned_stages(patch) < 2:
            raise self._nothing_fits(patch)
        patch = self.fitting(patch)
        if self._lower_bound(patch) > _HOPELESS * self.budget:
            return 0
        estimate = self._trace(patch, MIN_BATCH)
        if estimate.total > self.budget:
            return 0
        batch = MIN_BATCH
        while True:  # beyond the fixed part nothing grows faster than the batch, so the larger batch fits
            larger = int(batch * (self.budget - estimate.fixed) / (estimate.total - estimate.fixed))
            if larger <= batch:
                return batch
            batch, estimate = larger, self._trace(patch, larger)

    def architecture(self, patch: Sequence[int]) -> dict[str, Any]:
        """The network for patches of this size, as a plan's ``architecture``."""
        network = self.trainer.network_class
        strides, kernels = self._stages(patch)
        conv_op = convert_dim_to_conv_op(len(self.spacing))
        stages = {
            "n_stages": len(strides),
            "features_per_stage": self.planner.widths(len(self.spacing), len(strides)),
            "conv_op": f"{conv_op.__module__}.{conv_op.__name__}",
            "kernel_sizes": kernels,
            "strides": strides,
        }
        options = self.planner.options_of(len(strides))
        arguments = with_options(network, stage_arguments(network, stages), options, [int(size) for size in patch])
        return {
            "network_class_name": f"nnunetv2_mamba.architectures.{network.__name__}",
            "arch_kwargs": arguments,
            "_kw_requires_import": ["conv_op"],
        }

    def share_of_data_set(self, n_voxels: float) -> float:
        """What a batch may hold of the data set: nnU-Net's share, or what the plans to match take if that is more."""
        if self.match is None:
            return self.planner.nnunets_share
        plan = self.match.get_configuration(self.matched)
        return max(self.planner.nnunets_share, plan.batch_size * math.prod(plan.patch_size) / n_voxels)

    def refuse_tiny(self, patch: Sequence[int], image: Sequence[int]) -> None:
        """Raise ValueError for a patch that shows too little to learn from, of an image that is larger."""
        axes = len(self.spacing)
        if self.match is None and math.prod(patch) < min(_SMALLEST_PATCH[axes], math.prod(image[:axes])):
            raise ValueError(
                f"{self.subject}: of the {self.budget / GIB:.1f} GiB that can be used, patches of "
                f"{times(patch)} voxels are the largest at batch size {MIN_BATCH}, and they show too "
                "little of an image to learn from; give a larger --gpu-memory"
            )

    def _budget(self) -> float:
        """Bytes that a training may take: of the GPU, or as much as the plans to match take with nnU-Net's trainer."""
        if self.match is None:
            return usable_bytes(self.planner.UNet_vram_target_GB)
        plan = self.match.get_configuration(self.matched)
        return self._memory(plan.configuration["architecture"], plan.batch_size, plan.patch_size, "sgd").total

    def _planned_stages(self, patch: Sequence[int]) -> int:
        return len(self.planner.topology(self.spacing, patch, self.planner.max_pool)[0])

    def _stages(self, patch: Sequence[int]) -> tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]:
        """Strides and kernels of the network's stages for a patch."""
        strides, kernels, _ = self.planner.topology(self.spacing, patch, self.planner.max_pool)
        return self.trainer.network_class.stages(strides, kernels)

    def _lower_bound(self, patch: tuple[int, ...]) -> float:
        """Roughly what a patch needs at least: the largest smaller one traced, scaled by its voxels.

        It spares most of the traces: nnU-Net's loop starts with patches far too large.
        """
        smaller = [tried for tried in self._traced if _inside(tried, patch)]
        if smaller:
            reference = max(smaller, key=math.prod)
        else:
            reference = self.planner.topology(self.spacing, [-(-size // 2) for size in patch], UNLIMITED)[2]
            if self._planned_stages(reference) < 2:
                return 0
            reference = self.fitting(reference)
            if not _inside(reference, patch):
                return 0
        estimate = self._trace(reference, MIN_BATCH)
        growing = estimate.total - estimate.fixed
        return estimate.fixed + growing * math.prod(patch) / math.prod(reference)

    def _trace(self, patch: tuple[int, ...], batch: int) -> MemoryEstimate:
        estimate = self._memory(self.architecture(patch), batch, patch, self.trainer.recipe.optimizer)
        if batch == MIN_BATCH:
            self._traced[patch] = estimate
        return estimate

    def _memory(self, architecture: dict[str, Any], batch: int, patch: Sequence[int], optimizer: str) -> MemoryEstimate:
        description = self.planner.dataset_json
        shape = (batch, len(channel_names(description)), *patch)
        heads = label_manager(description).num_segmentation_heads
        try:
            return architecture_memory(architecture, shape, heads, optimizer)
        except Exception as error:  # whatever a network raises, that of another package too
            network = architecture["network_class_name"].rpartition(".")[2]
            raise ValueError(
                f"{self.subject}: {network} on patches of {times(patch)} raises {short_reason(error, 500)}"
            ) from error

    def _nothing_fits(self, patch: Sequence[int]) -> ValueError:
        if not self._traced:
            return ValueError(
                f"{self.subject}: images of this data set allow patches of {tuple(patch)} voxels, too few for two "
                "stages of a network; leave this configuration to another network"
            )
        smallest = min(self._traced, key=math.prod)
        remedy = "choose another plan to match" if self.match else "give a larger --gpu-memory"
        return ValueError(
            f"{self.subject} does not fit: {self.budget / GIB:.1f} GiB can be used, and even patches of {smallest} "
            f"voxels need {self._traced[smallest].total / GIB:.1f} GiB at batch size {MIN_BATCH}; {remedy}"
        )


def _inside(smaller: Sequence[int], patch: Sequence[int]) -> bool:
    return len(smaller) == len(patch) and tuple(smaller) != tuple(patch) and all(map(int.__le__, smaller, patch))
