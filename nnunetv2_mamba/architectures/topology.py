"""What a plan says of a network's shape, checked once for all networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from .blocks.dimensions import spatial_dims
from .blocks.sizes import check_size


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Return the product of the strides of all stages, per axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))


def isotropic_strides(n_stages: int, dims: int) -> list[list[int]]:
    """Return the strides of a network that halves every axis from each stage to the next."""
    return [[1] * dims, *([2] * dims for _ in range(n_stages - 1))]


def fitting_size(size: Sequence[int], strides: Sequence[Sequence[int]], takes_one_voxel: bool) -> tuple[int, ...]:
    """Return the smallest size, no axis of it shorter, that a network with these strides computes.

    Args:
        size: in voxels.
        strides: per stage and axis.
        takes_one_voxel: as in :class:`.contract.PlannedNetwork`; else the longest axis is doubled where one voxel would
            be left.
    """
    multiples = total_stride(strides)
    fitting = [-(-length // multiple) * multiple for length, multiple in zip(size, multiples, strict=True)]
    if tuple(fitting) == multiples and not takes_one_voxel:
        fitting[max(range(len(size)), key=lambda axis: size[axis])] *= 2
    return tuple(fitting)


@dataclass(frozen=True)
class Topology:
    """Stages of a U-shaped network, highest resolution first.

    Args:
        features: width of each stage.
        kernel_sizes, strides: per stage and axis. The first stage has stride 1.
    """

    features: tuple[int, ...]
    kernel_sizes: tuple[tuple[int, ...], ...]
    strides: tuple[tuple[int, ...], ...]

    @property
    def n_stages(self) -> int:
        return len(self.features)

    @property
    def total_stride(self) -> tuple[int, ...]:
        """The multiple that each axis of the input must have."""
        return total_stride(self.strides)

    def check_input(self, x: torch.Tensor, channels: int) -> None:
        """Raise ValueError if ``x`` (batch, channels, *grid) does not fit, naming the axis and its multiple."""
        dims = len(self.strides[0])
        if x.ndim != dims + 2:
            raise ValueError(f"input must have {dims + 2} axes (batch, channels, {dims} spatial), got {tuple(x.shape)}")
        if x.shape[1] != channels:
            raise ValueError(
                f"input has {x.shape[1]} channels, the network was built for {channels}; check the channel files of "
                "the case (_0000, _0001, ...) against dataset.json"
            )
        self.check_size(x.shape[2:])

    def check_size(self, size: Sequence[int]) -> None:
        """Raise ValueError if an input of this size does not fit, naming the axis and its multiple."""
        if len(size) != len(self.strides[0]):
            raise ValueError(f"the input's size must have {len(self.strides[0])} axes, got {tuple(size)}")
        for axis, (length, multiple) in enumerate(zip(size, self.total_stride, strict=True)):
            if length == 0 or length % multiple:
                raise ValueError(
                    f"spatial axis {axis} of the input has size {length}; this network needs a multiple of {multiple}"
                )

    def check_normalisable(self, x: torch.Tensor) -> None:
        """Raise ValueError if ``x`` leaves one voxel at the bottleneck and instance norm is to normalise it."""
        if tuple(x.shape[2:]) == self.total_stride:
            raise ValueError(
                f"input of size {tuple(x.shape[2:])} leaves one voxel at the bottleneck, which instance norm cannot "
                "normalise; use a larger patch"
            )

    def grids(self, size: Sequence[int]) -> list[tuple[int, ...]]:
        """Return the sizes of the feature maps, stage by stage, for an input of ``size``.

        Raises:
            ValueError: if the size does not fit.
        """
        self.check_size(size)
        grids, grid = [], tuple(size)
        for stride in self.strides:
            grid = tuple(length // step for length, step in zip(grid, stride, strict=True))
            grids.append(grid)
        return grids


def _per_stage_and_axis(name: str, value: int | Sequence, n_stages: int, dims: int) -> tuple[tuple[int, ...], ...]:
    """Expand dynamic-network-architectures' shorthands (an int; an int per stage) to one tuple per stage."""
    expanded = []
    for stage in _per_stage(name, value, n_stages):
        given = (stage,) * dims if isinstance(stage, int) else stage
        try:
            sizes = tuple(int(size) for size in given)
        except (TypeError, ValueError, OverflowError):  # of what is no sequence, or no number
            sizes = ()
        if len(sizes) != dims or sizes != tuple(given) or min(sizes) < 1:
            raise ValueError(f"{name} must hold {dims} positive integers per stage, got {stage!r}")
        expanded.append(sizes)
    return tuple(expanded)


def _per_stage(name: str, value: int | Sequence, n_stages: int) -> list:
    """Return an argument's entries, one per stage.

    Args:
        name: of the argument.
        value: one number for every stage, or an entry for each.
        n_stages: how many stages there are.

    Raises:
        ValueError: naming the argument, if there are not ``n_stages`` of them.
    """
    if isinstance(value, str) or not isinstance(value, int | Sequence):
        raise ValueError(f"{name} must be a number or a list of one for each of {n_stages} stages, got {value!r}")
    entries = [value] * n_stages if isinstance(value, int) else list(value)
    if len(entries) != n_stages:
        raise ValueError(f"{name} has {len(entries)} entries, needs one for each of {n_stages} stages")
    return entries


def sizes_per_stage(name: str, value: int | Sequence[int], n_stages: int, least: int = 1) -> list[int]:
    """Return :func:`_per_stage` of an argument that holds numbers of channels, blocks, ...

    Raises:
        ValueError: also where one of them is no integer of at least ``least``, 0 or 1.
    """
    entries = _per_stage(name, value, n_stages)
    return [check_size(f"{name}[{stage}]", entry, least) for stage, entry in enumerate(entries)]


def make_topology(
    n_stages: int,
    features_per_stage: int | Sequence[int],
    conv_op: type[nn.Module],
    kernel_sizes: int | Sequence,
    strides: int | Sequence,
) -> Topology:
    """Check and expand constructor arguments in dynamic-network-architectures' dialect.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    dims = spatial_dims(conv_op)
    if dims == 1:
        raise ValueError("conv_op must be torch.nn.Conv2d or torch.nn.Conv3d, got torch.nn.Conv1d")
    if type(n_stages) is not int or n_stages < 2:
        raise ValueError(f"n_stages must be a whole number of at least 2, got {n_stages!r}")
    features = sizes_per_stage("features_per_stage", features_per_stage, n_stages)
    kernels = _per_stage_and_axis("kernel_sizes", kernel_sizes, n_stages, dims)
    if any(k % 2 == 0 for stage in kernels for k in stage):
        raise ValueError(f"kernel_sizes must be odd, got {kernels}")
    topology = Topology(tuple(features), kernels, _per_stage_and_axis("strides", strides, n_stages, dims))
    if any(s != 1 for s in topology.strides[0]):
        raise ValueError(
            f"strides[0] must be 1 on every axis (logits have the input's size), got {topology.strides[0]}"
        )
    return topology
