"""The definition of the selective scan: a loop to read, and the truth that every backend is tested against.

Works for any floating dtype and device, differentiable by autograd. It computes in fp64 if a tensor is fp64, otherwise
in fp32, and returns u's dtype. Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces".
"""

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from .scan_arguments import ScanArguments


def scan_sequence(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """The scan along one sequence in mamba_ssm's layout; arguments as `nnunetv2_mamba.ops.selective_scan`."""
    given, dtype = u.dtype, compute_dtype(u, delta, B, C, z)
    u, delta, A, B, C = (t.to(dtype) for t in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    batch, channels, _ = u.shape
    if B.ndim == 4:  # (b, g, n, L): each group serves channels / g neighbouring channels
        B = B.repeat_interleave(channels // B.shape[1], dim=1)
    else:
        B = B[:, None]
    if C.ndim == 4:
        C = C.repeat_interleave(channels // C.shape[1], dim=1)
    else:
        C = C[:, None]

    h = u.new_zeros(batch, channels, A.shape[1])
    y = []
    # unbind, not indexing: the backward of indexing writes a full tensor at every step.
    for u_t, delta_t, B_t, C_t in zip(u.unbind(-1), delta.unbind(-1), B.unbind(-1), C.unbind(-1), strict=True):
        h = torch.exp(delta_t[..., None] * A) * h + (delta_t * u_t)[..., None] * B_t
        y.append((h * C_t).sum(-1))
    y = torch.stack(y, dim=-1)

    if D is not None:
        y = y + D.to(dtype)[:, None] * u
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(given)


def directional_scan(scan: ScanArguments) -> Tensor:
    """The sum of scans along paths.

    Each direction is the scan of the sequence its path visits, written back to the tokens visited.
    """
    u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z = scan
    given, dtype = u.dtype, compute_dtype(u, delta, B, C, z)
    directions = []
    for k, path in enumerate(paths.long()):
        inputs = (u if u.ndim == 3 else u[:, k], delta[:, k], B[:, k], C[:, k])
        u_k, delta_k, B_k, C_k = (t[:, path].transpose(1, 2).to(dtype) for t in inputs)
        D_k = None if D is None else D[k]
        delta_bias_k = None if delta_bias is None else delta_bias[k]
        y = scan_sequence(u_k, delta_k, A[k], B_k, C_k, D_k, None, delta_bias_k, delta_softplus).transpose(1, 2)
        directions.append(torch.empty_like(y).index_copy(1, path, y))
    y = torch.stack(directions).sum(0)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(given)


def directional_ssd(scan: ScanArguments) -> Tensor:
    """The sum of Mamba-2's scans along paths: A, D and delta per head, B and C per group."""
    u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z = scan
    given, dtype = u.dtype, compute_dtype(u, delta, B, C, z)
    channels, heads, groups = u.shape[-1], A.shape[-1], B.shape[-2]

    def per_channel(t: Tensor | None) -> Tensor | None:
        return None if t is None else t.to(dtype).repeat_interleave(channels // heads, dim=-1)

    directions = []
    for k, path in enumerate(paths.long()):
        u_k = (u if u.ndim == 3 else u[:, k])[:, path].to(dtype)
        dl = delta[:, k, path].to(dtype)
        if delta_bias is not None:
            dl = dl + delta_bias[k].to(dtype)
        if delta_softplus:
            dl = F.softplus(dl)
        decay, x = per_channel(torch.exp(dl * A[k].to(dtype))), per_channel(dl) * u_k
        B_k, C_k = (t[:, k, path].to(dtype).repeat_interleave(channels // groups, dim=2) for t in (B, C))
        state = x.new_zeros(*B_k[:, 0].shape)
        y = []
        for decay_t, x_t, B_t, C_t in zip(decay.unbind(1), x.unbind(1), B_k.unbind(1), C_k.unbind(1), strict=True):
            state = decay_t[..., None] * state + x_t[..., None] * B_t
            y.append((state * C_t).sum(-1))
        y = torch.stack(y, dim=1)
        if D is not None:
            y = y + per_channel(D[k]) * u_k
        directions.append(torch.empty_like(y).index_copy(1, path, y))
    y = torch.stack(directions).sum(0)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(given)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, activation: str | None = "silu"
) -> Tensor:
    """The causal depthwise convolution along paths; arguments as `nnunetv2_mamba.ops.causal_conv1d`."""
    given, dtype = x.dtype, compute_dtype(x)
    width = weight.shape[-1]
    directions = []
    for k, path in enumerate(paths.long()):
        along_path = F.pad((x if x.ndim == 3 else x[:, k])[:, path].to(dtype), (0, 0, width - 1, 0))
        y = sum(weight[k, :, tap].to(dtype) * along_path[:, tap : tap + len(path)] for tap in range(width))
        if bias is not None:
            y = y + bias[k].to(dtype)
        if activation == "silu":
            y = F.silu(y)
        directions.append(torch.empty_like(y).index_copy(1, path, y))
    return torch.stack(directions, dim=1).to(given)


def compute_dtype(*tensors: Tensor | None) -> torch.dtype:
    """fp64 if any of `tensors` is fp64, otherwise fp32."""
    return torch.float64 if any(t is not None and t.dtype == torch.float64 for t in tensors) else torch.float32
