"""Mamba-1 block over one or more paths through a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nnunetv2_mamba.ops import causal_conv1d

from ..directional_ssm import DirectionalSSM
from ..half_precision import saturated
from ..recompute import recomputed_but_for_scans
from ..scan_paths import scan_paths
from ..state_space import RunsOperators
from .gated import GatedMixer
from .registry import MixerOptions, register_mixer


@register_mixer("mamba")
class DirectionalMamba(RunsOperators, GatedMixer):
    """Mamba block (Gu & Dao 2023, figure 3) whose sequence part runs along several paths over a 2D or 3D grid.

    ``in_proj``, the gate and ``out_proj`` are shared; every direction has its own causal convolution and state-space
    parameters, and the directions are summed before the gate (SegMamba's "Mamba v3": ``scan="tri_oriented"``; the
    original block: ``scan="raster"``). Gating the sum once equals SegMamba's gating of each direction.
    """

    operators = ("causal_conv1d",)

    def __init__(self, options: MixerOptions):
        super().__init__(options)
        directions, inner, d_conv = options.directions, options.inner, options.d_conv
        self.scan = options.scan
        bound = d_conv**-0.5  # nn.Conv1d's default for a depthwise kernel
        self.conv_weight = nn.Parameter(torch.empty(directions, inner, d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(directions, inner).uniform_(-bound, bound))
        self.ssm = DirectionalSSM(inner, directions, options.d_state, options.dt_rank, options.dt_init, options.fusion)

    @classmethod
    def sequence_weights(cls, options: MixerOptions) -> int:
        """Causal convolution and state-space model of every direction."""
        directions, sizes = options.directions, (options.d_state, options.dt_rank)
        per_channel = DirectionalSSM.weights_per_channel(directions, *sizes, options.fusion)
        return options.inner * (per_channel + directions * (options.d_conv + 1))

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        paths = scan_paths(self.scan).table(tuple(grid), tokens.device)
        return recomputed_but_for_scans(self._scan, tokens, paths)

    def _scan(self, tokens: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        u = saturated(causal_conv1d(x, self.conv_weight, self.conv_bias, paths, activation="silu"))
        return self.ssm(u, paths, z)
