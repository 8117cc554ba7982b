"""Mamba-1 block over one or more paths through a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from nnunetv2_mamba.ops import causal_conv1d, scan_order

from .depthwise_conv import DepthwiseConv, kernel_size_for
from .dimensions import spatial_dims
from .directional_ssm import DirectionalSSM
from .half_precision import saturated
from .mixers import check_mixer
from .recompute import recomputed, recomputed_but_for_scans

PATHS = {
    "unidirectional": (scan_order.unidirectional, 1),
    "bidirectional": (scan_order.bidirectional, 2),
    "tri_oriented": (scan_order.tri_oriented, 3),
}

_LARGE = 2**23  # numbers from the input projection of one sample: work enough for any GPU


class DirectionalMamba(nn.Module):
    """Mamba block (Gu & Dao 2023, figure 3) whose sequence part runs along several paths over a 2D or 3D grid.

    ``in_proj``, the gate and ``out_proj`` are shared; every direction has its own causal convolution and state-space
    parameters, and the directions are summed before the gate (SegMamba's "Mamba v3": ``scan="tri_oriented"``; the
    original block: ``scan="unidirectional"``). Gating the sum once equals SegMamba's gating of each direction.

    In training on a GPU, the samples of a batch follow each other where the grid is large: what the backward pass
    computes again, and its gradients, are then one sample's at a time.

    Args:
        d_model: width of the tokens.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``; tells the number of axes of the grid.
        scan: ``"unidirectional"``, ``"bidirectional"`` or ``"tri_oriented"``.
        d_state, d_conv, expand: state size, width of the causal convolution, factor of the inner width.
        dt_init: see :class:`DirectionalSSM`.
        mixer: ``"mamba"``; ``"none"`` puts the identity in place of causal convolution and scan; ``"conv"`` a depthwise
            convolution of about as many weights.

    Raises:
        ValueError: for an unknown ``scan`` or ``mixer``.
    """

    def __init__(
        self,
        d_model: int,
        conv_op: type[nn.Module],
        scan: str = "tri_oriented",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_init: str = "all",
        mixer: str = "mamba",
    ):
        super().__init__()
        if scan not in PATHS:
            raise ValueError(f"scan must be one of {', '.join(PATHS)}; got {scan!r}")
        self.mixer = check_mixer(mixer)
        self.scan = scan
        directions = PATHS[scan][1]
        inner = expand * d_model
        dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * inner, bias=False)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        if mixer == "mamba":
            bound = d_conv**-0.5  # nn.Conv1d's default for a depthwise kernel
            self.conv_weight = nn.Parameter(torch.empty(directions, inner, d_conv).uniform_(-bound, bound))
            self.conv_bias = nn.Parameter(torch.empty(directions, inner).uniform_(-bound, bound))
            self.ssm = DirectionalSSM(inner, directions, d_state, dt_rank, dt_init)
        elif mixer == "conv":
            weights = DirectionalSSM.weights_per_channel(directions, d_state, dt_rank) + directions * (d_conv + 1)
            self.conv = DepthwiseConv(inner, conv_op, kernel_size_for(weights, spatial_dims(conv_op)))

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """``(batch, length, d_model)`` to the same shape; ``grid`` is the shape whose raster the tokens are."""
        if self._one_by_one(tokens):
            return torch.cat([self._mix(sample, grid) for sample in tokens.split(1)])
        return self._mix(tokens, grid)

    def _one_by_one(self, tokens: torch.Tensor) -> bool:
        # Fake tensors count what a GPU needs (memory/estimate.py). On a CPU it would leave threads without work.
        on_gpu = tokens.is_cuda or isinstance(tokens, FakeTensor)
        large = tokens.shape[1] * self.in_proj.out_features >= _LARGE
        return self.training and on_gpu and large and len(tokens) > 1

    def _mix(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        if self.mixer == "mamba":
            paths = PATHS[self.scan][0](tuple(grid), tokens.device)
            return self.out_proj(recomputed_but_for_scans(self._scan, tokens, paths))
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        if self.mixer == "conv":
            x = self.conv(x, grid)
        return self.out_proj(recomputed(_gated, x, z))

    def _scan(self, tokens: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(tokens).chunk(2, dim=-1)
        u = saturated(causal_conv1d(x, self.conv_weight, self.conv_bias, paths, activation="silu"))
        return self.ssm(u, paths, z)


def _gated(x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return saturated(nn.functional.silu(x) * nn.functional.silu(z))
