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
    heads, inner = len(state["A_log"]), state["norm.weight"].shape[0]
    d_state = (state["conv1d.bias"].shape[0] - inner) // 2
    batch, length, _ = tokens.shape
    z, convolved, dt = (tokens @ state["in_proj.weight"].T).split((inner, inner + 2 * d_state, heads), dim=-1)
    taps = state["conv1d.weight"][:, 0]
    padded = functional.pad(convolved, (0, 0, taps.shape[1] - 1, 0))
    windows = padded.unfold(1, taps.shape[1], 1)  # (batch, length, channels, taps)
    x, B, C = functional.silu((windows * taps).sum(-1) + state["conv1d.bias"]).split((inner, d_state, d_state), dim=-1)
    x = x.view(batch, length, heads, inner // heads)
    dt = functional.softplus(dt + state["dt_bias"])
    decay = torch.exp(-dt * state["A_log"].exp())
    S = x.new_zeros(batch, heads, inner // heads, d_state)
    y = []
    for t in range(length):
        written = torch.einsum("bh,bhp,bn->bhpn", dt[:, t], x[:, t], B[:, t])
        S = decay[:, t, :, None, None] * S + written
        y.append(torch.einsum("bhpn,bn->bhp", S, C[:, t]) + state["D"][:, None] * x[:, t])
    gated = torch.stack(y, 1).flatten(2) * functional.silu(z)
    normed = gated * (gated.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * state["norm.weight"]
    return normed @ state["out_proj.weight"].T
