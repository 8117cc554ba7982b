"""The state-space part that every Mamba network here shares: one selective scan per path, summed."""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_mamba.ops import directional_scan

from .fusion import fusion_weight, weighted
from .half_precision import saturated, wide
from .state_space import RunsOperators, initial_step_bias


class DirectionalSSM(RunsOperators, nn.Module):
    """Selective state-space model (Gu & Dao 2023, section 3) along several paths over one grid, summed over the paths.

    Every direction has its own projections to (dt, B, C), its own ``A``, ``D`` and dt bias, as in SegMamba's
    tri-oriented Mamba and in MedSegMamba's SS3D. ``A_log``, ``D`` and the dt bias are marked ``_no_weight_decay``.

    Args:
        channels: width d of the tokens.
        directions: number K of paths.
        d_state: state size n.
        dt_rank: rank of the projection to dt.
        dt_init: ``"all"`` draws every direction's initial step size from [0.001, 0.1] (Mamba's own initialisation);
            ``"first"`` does so for the first direction only and leaves the others at ``nn.Linear``'s default, which is
            what SegMamba's released code does (initial step about 0.69).
        fusion: see :func:`.fusion.fusion_weight`.

    Raises:
        ValueError: for an unknown ``dt_init`` or ``fusion``.
    """

    operators = ("directional_scan",)

    def __init__(
        self,
        channels: int,
        directions: int,
        d_state: int,
        dt_rank: int,
        dt_init: str = "all",
        fusion: str = "sum",
    ):
        super().__init__()
        if dt_init not in ("all", "first"):
            raise ValueError(f"dt_init must be 'all' or 'first', got {dt_init!r}")
        self.d_state, self.dt_rank = d_state, dt_rank
        self.x_proj_weight = nn.Parameter(torch.empty(directions, dt_rank + 2 * d_state, channels))
        self.dt_proj_weight = nn.Parameter(torch.empty(directions, channels, dt_rank))
        self.dt_proj_bias = nn.Parameter(torch.empty(directions, channels))
        self.A_log = nn.Parameter(torch.empty(directions, channels, d_state))
        self.D = nn.Parameter(torch.ones(directions, channels))
        self.fusion_weight = fusion_weight(fusion, directions, channels)
        for parameter in (self.dt_proj_bias, self.A_log, self.D):
            parameter._no_weight_decay = True
        self._reset_parameters(dt_init)

    @torch.no_grad()
    def _reset_parameters(self, dt_init: str) -> None:
        bound = self.x_proj_weight.shape[-1] ** -0.5
        self.x_proj_weight.uniform_(-bound, bound)
        bound = self.dt_rank**-0.5
        self.dt_proj_weight.uniform_(-bound, bound)
        self.dt_proj_bias.uniform_(-bound, bound)
        started = self.dt_proj_bias if dt_init == "all" else self.dt_proj_bias[:1]
        initial_step_bias(started)
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))

    @staticmethod
    def weights_per_channel(directions: int, d_state: int, dt_rank: int, fusion: str = "sum") -> int:
        """Number of parameters per channel: x_proj, dt_proj with its bias, A, D and the fusion of every direction."""
        return directions * ((dt_rank + 2 * d_state) + (dt_rank + 1) + d_state + 1 + (fusion == "learned"))

    def forward(self, u: torch.Tensor, paths: torch.Tensor, z: torch.Tensor | None = None) -> torch.Tensor:
        """Scan ``u`` along ``paths``.

        Args:
            u: ``(batch, length, channels)`` shared by all directions, or ``(batch, directions, length, channels)``.
            paths: int32 ``(directions, length)``, scan position to token (see ``ops.scan_order``).
            z: gate ``(batch, length, channels)``; the sum over directions is multiplied by ``silu(z)``.

        Returns:
            ``(batch, length, channels)`` in token order.
        """
        if u.ndim == 3:  # one matrix product serves all directions
            projected = saturated(nn.functional.linear(u, self.x_proj_weight.flatten(0, 1)))
            projected = projected.unflatten(-1, self.x_proj_weight.shape[:2]).transpose(1, 2)
        else:
            projected = saturated(u @ self.x_proj_weight.transpose(1, 2))
        dt, B, C = projected.split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        delta = saturated(dt @ self.dt_proj_weight.transpose(1, 2))
        scanned = directional_scan(
            weighted(u, self.fusion_weight), delta, -torch.exp(wide(self.A_log)), B, C, paths,
            D=wide(self.D), delta_bias=wide(self.dt_proj_bias), delta_softplus=True, z=z,
        )  # fmt: skip
        return saturated(scanned)
