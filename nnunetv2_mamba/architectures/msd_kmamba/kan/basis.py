"""KAN layers whose learned functions are sums of fixed basis functions: B-splines and Gaussians."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nnunetv2_mamba.architectures.blocks.half_precision import wide
from nnunetv2_mamba.architectures.blocks.recompute import recomputed

SPLINE_INTERVALS = 5
SPLINE_RANGE = 3.0  # the grid is [-3, 3], which holds 99.7 % of a normalised feature map
RBF_CENTRES = 8
RBF_RANGE = 2.0


def bspline_basis(x: Tensor) -> Tensor:
    """Return the values of the 8 cubic B-splines on a uniform grid of 5 intervals over [-3, 3].

    Their sum is 1 inside the grid and falls to 0 within three intervals outside of it (Liu et al., *KAN*, ICLR 2025,
    section 2.2: G = 5, k = 3). On a uniform grid every B-spline is the cardinal one, moved and stretched: no recursion.

    Returns:
        ``(8, *x.shape)``.
    """
    step = 2 * SPLINE_RANGE / SPLINE_INTERVALS
    centres = torch.arange(-1, SPLINE_INTERVALS + 2, device=x.device, dtype=x.dtype) * step - SPLINE_RANGE
    distance = ((x - centres.view(-1, *(1,) * x.ndim)) / step).abs()
    return ((2 - distance).relu() ** 3 - 4 * (1 - distance).relu() ** 3) / 6


def rbf_basis(x: Tensor) -> Tensor:
    """8 Gaussians ``exp(-((x - c) / w)^2)`` with c from -2 to 2 and w their distance (Li, *FastKAN*, arXiv 2405.06721).

    Returns:
        ``(8, *x.shape)``.
    """
    width = 2 * RBF_RANGE / (RBF_CENTRES - 1)
    centres = torch.linspace(-RBF_RANGE, RBF_RANGE, RBF_CENTRES, device=x.device, dtype=x.dtype)
    return torch.exp(-(((x - centres.view(-1, *(1,) * x.ndim)) / width) ** 2))


class BasisConv(nn.Module):
    """A KAN layer as a 1x1 convolution: ``y_o = sum_i (w_oi silu(x_i) + sum_m c_oim basis_m(x_i))`` at every voxel.

    Outside the range of the basis only the SiLU acts, so the input should be normalised. The basis is computed in fp32
    whatever autocast says. It is 8 times as large as the input, and is therefore not kept for the backward pass but
    computed again (activation checkpointing).

    Args:
        channels: width of input and output.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        basis: ``bspline_basis`` or ``rbf_basis``.
    """

    def __init__(self, channels: int, conv_op: type[nn.Module], basis: Callable[[Tensor], Tensor]):
        super().__init__()
        self.basis = basis
        n_basis = len(basis(torch.zeros(())))
        self.conv = conv_op((1 + n_basis) * channels, channels, 1, bias=False)
        with torch.no_grad():  # starts near its SiLU part
            nn.init.kaiming_uniform_(self.conv.weight[:, :channels], a=5**0.5)
            nn.init.normal_(self.conv.weight[:, channels:], std=0.1 * channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, *grid)`` to the same shape."""
        return recomputed(self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            v = wide(x)
            functions = torch.cat((nn.functional.silu(v), *self.basis(v)), dim=1).to(x.dtype)
        return self.conv(functions)
