"""Kolmogorov-Arnold blocks for 2D and 3D feature maps: learned functions of one variable, then sums over channels."""

from __future__ import annotations

from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from torch import nn

from .basis import BasisConv, bspline_basis, rbf_basis
from .rational import IDENTITY, SILU, GroupRational

KINDS = ("rational", "bspline", "rbf", "mlp")
SILU_GAIN = 2.8178  # 1 / E[silu(x)^2] for a standard normal x


def kan_block(kind: str, channels: int, conv_op: type[nn.Module]) -> nn.Sequential:
    """Return a block that maps ``(batch, channels, *grid)``, normalised per channel, to the same shape, voxel by voxel.

    - ``"rational"``: two layers of grouped rational functions and a 1x1 convolution, hidden width ``2 * channels``
      (GR-KAN; Yang & Wang, *Kolmogorov-Arnold Transformer*, ICLR 2025, section 4). The first functions start as the
      identity and the second as SiLU, with the variance-preserving weights of that paper.
    - ``"bspline"``, ``"rbf"``: two layers of :class:`BasisConv`, instance norm between, hidden width ``channels``.
    - ``"mlp"``: the control, of the cost of ``"rational"``: 1x1 convolution, GELU, 1x1 convolution (SegMamba's MLP).

    Raises:
        ValueError: for an unknown kind, or a width that ``"rational"`` cannot divide into its groups.
    """
    if kind == "rational":
        expand, compress = conv_op(channels, 2 * channels, 1), conv_op(2 * channels, channels, 1)
        nn.init.kaiming_normal_(expand.weight, nonlinearity="linear")
        nn.init.normal_(compress.weight, std=(SILU_GAIN / (2 * channels)) ** 0.5)
        nn.init.zeros_(expand.bias)
        nn.init.zeros_(compress.bias)
        return nn.Sequential(GroupRational(channels, IDENTITY), expand, GroupRational(2 * channels, SILU), compress)
    if kind == "mlp":
        return nn.Sequential(conv_op(channels, 2 * channels, 1), nn.GELU(), conv_op(2 * channels, channels, 1))
    if kind in ("bspline", "rbf"):
        basis = bspline_basis if kind == "bspline" else rbf_basis
        norm = get_matching_instancenorm(conv_op)(channels)
        return nn.Sequential(BasisConv(channels, conv_op, basis), norm, BasisConv(channels, conv_op, basis))
    raise ValueError(f"kan must be one of {', '.join(KINDS)}; got {kind!r}")
