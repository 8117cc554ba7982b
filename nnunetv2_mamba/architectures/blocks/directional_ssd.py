"""Mamba-2's state-space part along several paths, summed."""

from __future__ import annotations

import math

import torch
from torch import nn

from nnunetv2_mamba.ops import directional_ssd

from .fusion import fusion_weight, weighted
from .half_precision import saturated, wide
from .sizes import check_size
from .state_space import RunsOperators, initial_step_bias


def head_size(channels: int, headdim: int) -> int:
    """The width of a head: the divisor of ``channels`` nearest to ``headdim`` by ratio.

    Raises:
        ValueError: if ``headdim`` is no positive integer.
    """
    check_size("headdim", headdim)
    divisors = [size for size in range(1, channels + 1) if channels % size == 0]
    return min(divisors, key=lambda size: abs(math.log(size / headdim)))


class DirectionalSSD(RunsOperators, nn.Module):
    """State-space duality (Dao & Gu 2024) along several paths over one grid, summed over the paths.

    Every direction has its own ``A``, ``D`` and dt bias, a number per head, initialised as in ``mamba_ssm`` and marked
    ``_no_weight_decay``.

    Args:
        channels: width d of the tokens.
        directions: number K of paths.
        headdim: width that heads shall have; see :func:`head_size`.
        fusion: see :func:`.fusion.fusion_weight`.
    """

    operators = ("directional_ssd",)

    def __init__(self, channels: int, directions: int, headdim: int, fusion: str = "sum"):
        super().__init__()
        self.heads = channels // head_size(channels, headdim)
        self.dt_bias = nn.Parameter(initial_step_bias(torch.empty(directions, self.heads)))
        self.A_log = nn.Parameter(torch.empty(directions, self.heads).uniform_(1, 16).log_())
        self.D = nn.Parameter(torch.ones(directions, self.heads))
        self.fusion_weight = fusion_weight(fusion, directions, channels)
        for parameter in self.parameters():
            parameter._no_weight_decay = True

    def forward(
        self,
        u: torch.Tensor,
        delta: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        paths: torch.Tensor,
        z: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scan ``u`` along ``paths``.

        Args:
            u: ``(batch, length, channels)`` shared by all directions, or ``(batch, directions, length, channels)``.
            delta: step size before bias and softplus, ``(batch, directions, length, heads)``.
            B, C: ``(batch, directions, length, d_state)``, shared by all heads.
            paths: int32 ``(directions, length)``, scan position to token (see ``ops.scan_order``).
            z: gate ``(batch, length, channels)``; the sum over directions is multiplied by ``silu(z)``.

        Returns:
            ``(batch, length, channels)`` in token order.
        """
        u = weighted(u, self.fusion_weight)
        scanned = directional_ssd(
            u, delta, -torch.exp(wide(self.A_log)), B[..., None, :], C[..., None, :], paths,
            D=wide(self.D), delta_bias=wide(self.dt_bias), delta_softplus=True, z=z,
        )  # fmt: skip
        return saturated(scanned)


class SelectiveSSD(nn.Module):
    """:class:`DirectionalSSD` whose steps, B and C are projections of what is scanned, each direction's its own.

    Takes the place of :class:`.DirectionalSSM`, with Mamba-2's scan.

    Args:
        channels, directions, headdim, fusion: see :class:`DirectionalSSD`.
        d_state: state size n.
    """

    def __init__(self, channels: int, directions: int, d_state: int, headdim: int, fusion: str = "sum"):
        super().__init__()
        self.d_state = d_state
        self.ssd = DirectionalSSD(channels, directions, headdim, fusion)
        bound = channels**-0.5
        projection = torch.empty(directions, self.ssd.heads + 2 * d_state, channels).uniform_(-bound, bound)
        self.x_proj_weight = nn.Parameter(projection)

    def forward(self, u: torch.Tensor, paths: torch.Tensor) -> torch.Tensor:
        """``(batch, length, channels)`` to the same."""
        projected = saturated(nn.functional.linear(u, self.x_proj_weight.flatten(0, 1)))
        projected = projected.unflatten(-1, self.x_proj_weight.shape[:2]).transpose(1, 2)
        delta, B, C = projected.split((self.ssd.heads, self.d_state, self.d_state), dim=-1)
        return self.ssd(u, delta, B, C, paths)
