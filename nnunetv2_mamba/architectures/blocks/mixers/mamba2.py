"""Mamba-2 block over one or more paths through a grid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nnunetv2_mamba.ops import causal_conv1d

from ..directional_ssd import DirectionalSSD, head_size
from ..half_precision import saturated
from ..recompute import recomputed_but_for_scans
from ..scan_paths import scan_paths
from ..state_space import RunsOperators
from .gated import GatedMixer, NormAfterGate
from .registry import MixerOptions, register_mixer


@register_mixer("mamba2")
class DirectionalMamba2(RunsOperators, GatedMixer):
    """Mamba-2 block (Dao & Gu 2024, figure 6) whose sequence part runs along several paths over a 2D or 3D grid.

    One projection gives the gate, what is scanned, and of every direction B, C and the steps. Every direction convolves
    x, B and C causally with weights of its own and has its own ``A``, ``D`` and dt bias per head; the directions are
    summed before the gate, which an RMS norm follows. With one path this is mamba_ssm's ``Mamba2Simple`` with one
    group, parameter for parameter. The options ``d_state`` and ``headdim`` are its; see
    :func:`..directional_ssd.head_size` for widths that are no multiple of ``headdim``.
    """

    operators = ("causal_conv1d",)

    def __init__(self, options: MixerOptions):
        directions, inner, d_state = options.directions, options.inner, options.d_state
        ssd = DirectionalSSD(inner, directions, options.headdim, options.fusion)
        sizes = (inner, inner, directions * 2 * d_state, directions * ssd.heads)
        super().__init__(options, projected=sum(sizes))
        self.sizes, self.scan, self.d_state = sizes, options.scan, d_state
        bound = options.d_conv**-0.5  # nn.Conv1d's default for a depthwise kernel
        convolved = inner + 2 * d_state
        self.conv_weight = nn.Parameter(torch.empty(directions, convolved, options.d_conv).uniform_(-bound, bound))
        self.conv_bias = nn.Parameter(torch.empty(directions, convolved).uniform_(-bound, bound))
        self.ssd = ssd
        self.norm = NormAfterGate(inner)

    @classmethod
    def sequence_weights(cls, options: MixerOptions) -> int:
        """Projections to B, C and the steps, causal convolution, A, D, dt bias and fusion of every direction."""
        heads = options.inner // head_size(options.inner, options.headdim)
        projected = (2 * options.d_state + heads) * options.d_model
        convolved = (options.inner + 2 * options.d_state) * (options.d_conv + 1)
        fusion = options.inner if options.fusion == "learned" else 0
        return options.directions * (projected + convolved + 3 * heads + fusion)

    def mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        paths = scan_paths(self.scan).table(tuple(grid), tokens.device)
        return recomputed_but_for_scans(self._scan, tokens, paths)

    def _scan(self, tokens: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
        z, x, projected, delta = self.in_proj(tokens).split(self.sizes, dim=-1)
        directions, inner = len(paths), x.shape[-1]
        projected, delta = (t.unflatten(-1, (directions, -1)).transpose(1, 2) for t in (projected, delta))
        weights = self.conv_weight.split((inner, 2 * self.d_state), dim=1)
        biases = self.conv_bias.split((inner, 2 * self.d_state), dim=1)
        u, projected = (
            saturated(causal_conv1d(t, weight, bias, paths, activation="silu"))
            for t, weight, bias in zip((x, projected), weights, biases, strict=True)
        )
        B, C = projected.chunk(2, dim=-1)
        return self.norm(self.ssd(u, delta, B, C, paths, z))
