"""Mamba-2 written out token by token (Dao & Gu 2024, ``Mamba2Simple`` of mamba_ssm, one group), to test against."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional


def mamba2(state: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
    """Return what the layer gives for tokens ``(batch, length, d_model)``.

    Args:
        state: its tensors under mamba_ssm's names; their shapes say all sizes.
        tokens: in the order of the scan.
    """
    return gated_normed_projected(state, *scanned(state, tokens))


def scanned(state: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the scan gives and the gate before its SiLU, both ``(batch, length, inner)``."""
    heads, inner = len(state["A_log"]), state["norm.weight"].shape[0]
    d_state = (state["conv1d.bias"].shape[0] - inner) // 2
    z, convolved, dt = (tokens @ state["in_proj.weight"].T).split((inner, inner + 2 * d_state, heads), dim=-1)
    taps = state["conv1d.weight"][:, 0]
    padded = functional.pad(convolved, (0, 0, taps.shape[1] - 1, 0))
    windows = padded.unfold(1, taps.shape[1], 1)  # (batch, length, channels, taps)
    x, B, C = functional.silu((windows * taps).sum(-1) + state["conv1d.bias"]).split((inner, d_state, d_state), dim=-1)
    return recurrence(x, dt + state["dt_bias"], state["A_log"], B, C, state["D"]), z


def gated_normed_projected(state: Mapping[str, Tensor], y: Tensor, z: Tensor) -> Tensor:
    """Return the layer's output for what the scan, or the sum of several, gives."""
    gated = y * functional.silu(z)
    normed = gated * (gated.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * state["norm.weight"]
    return normed @ state["out_proj.weight"].T


def recurrence(x: Tensor, dt: Tensor, A_log: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """Scan ``x`` ``(batch, length, inner)``; ``dt`` is before softplus. A head at a time has one decay and one step."""
    batch, length, inner = x.shape
    heads, d_state = len(A_log), B.shape[-1]
    x = x.view(batch, length, heads, inner // heads)
    dt = functional.softplus(dt)
    decay = torch.exp(-dt * A_log.exp())
    S = x.new_zeros(batch, heads, inner // heads, d_state)
    y = []
    for t in range(length):
        written = torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        S = decay[:, t, :, None, None] * S + written
        y.append(torch.einsum("bhpn,bn->bhp", S, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(y, 1).flatten(2)
