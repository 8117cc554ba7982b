"""MedSegMamba's 3D selective scan module (SS3D)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..blocks.depthwise_conv import DepthwiseConv, kernel_size_for
from ..blocks.dimensions import spatial_dims
from ..blocks.directional_ssd import SelectiveSSD
from ..blocks.directional_ssm import DirectionalSSM
from ..blocks.fusion import check_fusion
from ..blocks.mixers import OWN_MIXERS, check_mixer
from ..blocks.recompute import recomputed_but_for_scans
from ..blocks.scan_paths import scan_paths
from ..blocks.sizes import check_size

SS3D_MIXERS = (*OWN_MIXERS, "mamba2")


class SS3D(nn.Module):
    """Linear, depthwise convolution, SiLU, selective scans (eight serpentines) summed, LayerNorm, linear.

    Cao et al. 2024 (arXiv 2409.08307), variant "v5" of the released code: no gate and no causal convolution. The
    released code walks a 12x12x12 grid; here the same paths are generated for any grid, 2D too.

    Args:
        d_model: width of the tokens; dt has rank ``ceil(d_model / 16)``.
        conv_op, kernel_size: of the depthwise convolution.
        scan: a name of ``blocks.scan_paths.PATHS``; ``"ss3d_0"`` to ``"ss3d_5"`` are the paper's, by the axes they run
            along.
        d_state: state size.
        expand: factor of the inner width.
        dropout: after the output projection.
        mixer: ``"mamba"``; ``"mamba2"`` puts Mamba-2's scans in place of Mamba's, ``"none"`` the identity, ``"conv"`` a
            depthwise convolution of about as many weights as Mamba's.
        headdim: width of a head of Mamba-2; see :func:`.directional_ssd.head_size` for widths that do not fit.
        fusion: see :class:`.DirectionalSSM`.

    Raises:
        ValueError: for an unknown ``scan``, ``mixer`` or ``fusion``, or a size that is no positive integer.
    """

    def __init__(
        self,
        d_model: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        scan: str,
        d_state: int = 64,
        expand: int = 1,
        dropout: float = 0.0,
        mixer: str = "mamba",
        headdim: int = 64,
        fusion: str = "sum",
    ):
        super().__init__()
        self.mixer, self.scan = check_mixer(mixer, SS3D_MIXERS, " in SS3D"), scan
        check_fusion(fusion)
        for name, size in {"d_state": d_state, "expand": expand, "headdim": headdim}.items():
            check_size(name, size)
        directions = scan_paths(scan).directions(spatial_dims(conv_op))
        dt_rank = math.ceil(d_model / 16)
        inner = expand * d_model
        self.in_proj = nn.Linear(d_model, inner, bias=False)
        self.depthwise_conv = DepthwiseConv(inner, conv_op, kernel_size)
        if mixer == "mamba":
            self.ssm = DirectionalSSM(inner, directions, d_state, dt_rank, fusion=fusion)
        elif mixer == "mamba2":
            self.ssm = SelectiveSSD(inner, directions, d_state, headdim, fusion)
        elif mixer == "conv":
            weights = DirectionalSSM.weights_per_channel(directions, d_state, dt_rank, fusion)
            self.conv = DepthwiseConv(inner, conv_op, kernel_size_for(weights, spatial_dims(conv_op)))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, d_model, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        """Map ``(batch, length, d_model)`` to the same shape; ``grid`` is the shape whose raster the tokens are."""
        u = nn.functional.silu(self.depthwise_conv(self.in_proj(tokens), grid))
        if self.mixer in ("mamba", "mamba2"):
            paths = scan_paths(self.scan).table(tuple(grid), tokens.device)
            u = recomputed_but_for_scans(self.ssm, u, paths)
        elif self.mixer == "conv":
            u = self.conv(u, grid)
        return self.dropout(self.out_proj(self.out_norm(u)))
