"""SegMamba (Xing et al., MICCAI 2024, arXiv 2401.13560) as its released code computes it, for any nnU-Net plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp, get_matching_instancenorm
from torch import nn

from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturate_layers
from ..blocks.recompute import recomputed
from ..blocks.scan_paths import scans_of_stages
from ..contract import PlannedNetwork
from ..topology import Topology, sizes_per_stage
from .feature_uncertainty import FeatureLevelUncertaintyEstimation
from .gated_spatial_conv import GatedSpatialConv
from .tri_oriented_mamba import TriOrientedMambaLayer
from .unetr_block import UnetrResBlock


class _Stage(nn.Module):
    """Downsample, gated spatial convolution, ToM layers; and the MLP of the branch to the skip connection."""

    def __init__(
        self,
        downsample: nn.Module,
        channels: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        scans: Sequence[str],
        gate: str,
        fue: bool,
        tom_options: dict,
    ):
        super().__init__()
        self.downsample = downsample
        self.gated_conv = GatedSpatialConv(channels, conv_op, kernel_size, gate)
        self.tom_layers = nn.Sequential(
            *(TriOrientedMambaLayer(channels, conv_op, scan=scan, **tom_options) for scan in scans)
        )
        self.skip_mlp = nn.Sequential(
            get_matching_instancenorm(conv_op)(channels),
            conv_op(channels, 2 * channels, 1),
            nn.GELU(),
            conv_op(2 * channels, channels, 1),
        )
        self.fue = FeatureLevelUncertaintyEstimation() if fue else nn.Identity()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features for the next stage and those for the skip connection."""
        x = self.tom_layers(self.gated_conv(self.downsample(x)))
        return x, self.fue(recomputed(self.skip_mlp, x))


class SegMambaEncoder(nn.Module):
    """The Mamba trunk and the residual block on every skip connection.

    Level 0 sees the input itself; the trunk starts at level 1, so its stage i works at the resolution of level i + 1
    with the width of level i.

    Args:
        make_stage: called with a level, its downsampling and its width; the stage returns the features for the next
            stage and those for the skip connection.
    """

    def __init__(
        self,
        input_channels: int,
        topology: Topology,
        conv_op: type[nn.Module],
        make_stage: Callable[[int, nn.Module, int], nn.Module],
    ):
        super().__init__()
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        stages = []
        for level in range(1, topology.n_stages):
            width = features[level - 1]
            if level == 1:  # 7 wide where the plan convolves at all
                kernel = tuple(7 if k > 1 else 1 for k in kernels[level])
                down = conv_op(input_channels, width, kernel, strides[level], same_padding(kernel))
            else:
                down = nn.Sequential(
                    get_matching_instancenorm(conv_op)(features[level - 2]),
                    conv_op(features[level - 2], width, strides[level], strides[level]),
                )
            stages.append(make_stage(level, down, width))
        self.stages = nn.ModuleList(stages)
        self.skip_blocks = nn.ModuleList(
            UnetrResBlock(features[level - 1] if level else input_channels, features[level], conv_op, kernels[level])
            for level in range(topology.n_stages)
        )

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first, the bottleneck last."""
        skips = [self.skip_blocks[0](x)]
        for stage, skip_block in zip(self.stages, self.skip_blocks[1:], strict=True):
            x, skip = stage(x)
            skips.append(skip_block(skip))
        return skips


def decoder_level(topology: Topology, conv_op: type[nn.Module], level: int) -> tuple[nn.Module, nn.Module]:
    """Return UNETR's upsampling to a level, and its residual blocks there."""
    below, width = topology.features[level + 1], topology.features[level]
    kernel, stride = topology.kernel_sizes[level], topology.strides[level + 1]
    upsampling = get_matching_convtransp(conv_op)(below, width, stride, stride, bias=False)
    merge = UnetrResBlock(2 * width, width, conv_op, kernel)
    return upsampling, merge if level else nn.Sequential(merge, UnetrResBlock(width, width, conv_op, kernel))


class SegMamba(PlannedNetwork):
    """SegMamba, built from a plan; logits out.

    The defaults compute what the released code (since 5 June 2024) computes; with five isotropic stages of widths
    48, 96, 192, 384, 768 it has that code's 67,416,196 parameters (4 channels in, 4 out). Input
    ``(batch, input_channels, *grid)``, every axis a multiple of its total stride; output
    ``(batch, num_classes, *grid)`` or, with deep supervision, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. The trunk's stages have the widths
            ``features_per_stage[:-1]``.
        n_tom_layers_per_stage: tri-oriented Mamba layers of each of the ``n_stages - 1`` trunk stages.
        gate: ``"add"`` (code) or ``"multiply"`` (paper) in the gated spatial convolution.
        fue: feature-level uncertainty estimation on the skip connections (paper; a reconstruction).
        dt_init: ``"first"`` (code) or ``"all"``: which directions get Mamba's initial step sizes.
        tom_residual: False for checkpoints from before 5 June 2024.
        mixer: ``"mamba"``, ``"mamba2"``, or a control: ``"none"`` (identity) or ``"conv"`` (depthwise convolution of
            about as many weights) in place of the state-space part.
        d_state: state size.
        headdim: width of a head of Mamba-2; see :func:`.directional_ssd.head_size` for widths that do not fit.
        scan: the paths of the Mamba layers; see ``docs/scan_orders.md``.
        fusion: ``"sum"`` of the paths or ``"learned"``, with a weight per path and channel.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    missing_stages = {"n_tom_layers_per_stage": 1}
    key_to_stem = "encoder.stages.0.downsample"
    keys_to_in_proj = ("encoder.stages.0.downsample",)

    def __init__(
        self,
        *planned: Any,
        n_tom_layers_per_stage: int | Sequence[int] = 2,
        gate: str = "add",
        fue: bool = False,
        dt_init: str = "first",
        tom_residual: bool = True,
        mixer: str = "mamba",
        d_state: int = 16,
        headdim: int = 64,
        scan: str = "tri_oriented",
        fusion: str = "sum",
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        topology, conv_op = self.topology, self.conv_op
        n_tom_layers = sizes_per_stage("n_tom_layers_per_stage", n_tom_layers_per_stage, topology.n_stages - 1, least=0)
        scans = scans_of_stages(scan, n_tom_layers)
        tom_options = {"residual": tom_residual, "dt_init": dt_init, "mixer": mixer, "fusion": fusion}
        tom_options |= {"d_state": d_state, "headdim": headdim}

        def make_stage(level: int, downsample: nn.Module, width: int) -> _Stage:
            kernel = topology.kernel_sizes[level]
            return _Stage(downsample, width, conv_op, kernel, scans[level - 1], gate, fue, tom_options)

        self.encoder = SegMambaEncoder(self.input_channels, topology, conv_op, make_stage)
        self.decoder = self.make_decoder(partial(decoder_level, topology, conv_op))
        saturate_layers(self)

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths for any number of stages: from 48 doubling to 384, the last twice that before."""
        trunk = [min(48 * 2**i, 384) for i in range(n_stages - 1)]
        return [*trunk, 2 * trunk[-1]]
