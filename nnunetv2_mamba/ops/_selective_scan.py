"""The selective scan in mamba_ssm's layout: a thin face on `directional_scan`."""

import torch
from torch import Tensor

from nnunetv2_mamba.ops._directional_scan import directional_scan
from nnunetv2_mamba.ops.scan_order import unidirectional
from nnunetv2_mamba.ops.validation import check_floating, check_ndim, check_shape


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Scan along the last axis; shapes and meaning of mamba_ssm's `selective_scan_fn`.

    Networks should call `directional_scan`: this layout costs a transposed copy of u, delta, z, B and C.

    Args:
        u: Input, (b, d, L).
        delta: Step size before bias and softplus, (b, d, L).
        A: Decay rates, (d, n), real.
        B: Input weights, (b, n, L), or (b, g, n, L) for g groups of d / g neighbouring channels.
        C: Output weights, shaped as B may be.
        D: Weight of the input in the output, (d,).
        z: Gate, (b, d, L); the result is multiplied by silu(z).
        delta_bias: Added to delta, (d,).
        delta_softplus: Whether to apply softplus to delta.
        backend: As in `directional_scan`.

    Returns:
        (b, d, L) in u's dtype.

    Raises:
        TypeError, ValueError, RuntimeError: As `directional_scan`.

    Example: a sequence of 24 with 8 channels and states of 16.

        >>> import torch
        >>> from nnunetv2_mamba.ops import selective_scan
        >>> u, delta, A = torch.randn(1, 8, 24), torch.randn(1, 8, 24), -torch.rand(8, 16)
        >>> B, C = torch.randn(1, 16, 24), torch.randn(1, 16, 24)
        >>> selective_scan(u, delta, A, B, C, delta_softplus=True).shape
        torch.Size([1, 8, 24])
    """
    check_floating(u, u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias)
    check_ndim("u", u, "(b, d, L)")
    check_ndim("A", A, "(d, n)")
    (batch, d, L), n = u.shape, A.shape[-1]
    check_shape("delta", delta, "(b, d, L)", batch, d, L)
    check_shape("A", A, "(d, n)", d, n)
    check_shape("D", D, "(d,)", d)
    check_shape("z", z, "(b, d, L)", batch, d, L)
    check_shape("delta_bias", delta_bias, "(d,)", d)
    if L == 0:
        raise ValueError(f"u must have at least one position, got shape {tuple(u.shape)}")
    groups = max(_group_count("B", B, batch, d, n, L), _group_count("C", C, batch, d, n, L))
    if C.ndim == B.ndim == 4 and C.shape[1] != B.shape[1] and 1 not in (B.shape[1], C.shape[1]):
        raise ValueError(f"C must have as many groups as B, or one, got {C.shape[1]} and {B.shape[1]}")

    paths = unidirectional((L,), u.device)
    outputs = []
    for g in range(groups):
        channels = slice(g * d // groups, (g + 1) * d // groups)
        out = directional_scan(
            u[:, channels].transpose(1, 2),
            delta[:, None, channels].transpose(2, 3),
            A[None, channels],
            _of_group(B, g),
            _of_group(C, g),
            paths,
            D=None if D is None else D[None, channels],
            delta_bias=None if delta_bias is None else delta_bias[None, channels],
            delta_softplus=delta_softplus,
            z=None if z is None else z[:, channels].transpose(1, 2),
            backend=backend,
        )
        outputs.append(out.transpose(1, 2))
    return outputs[0] if groups == 1 else torch.cat(outputs, dim=1)


def _group_count(name: str, weights: Tensor, batch: int, d: int, n: int, L: int) -> int:
    check_ndim(name, weights, "(b, n, L)", "(b, g, n, L)")
    if weights.ndim == 3:
        check_shape(name, weights, "(b, n, L)", batch, n, L)
        return 1
    groups = weights.shape[1]
    check_shape(name, weights, "(b, g, n, L)", batch, groups, n, L)
    if groups == 0 or d % groups:
        raise ValueError(f"{name} must have a number of groups that divides the {d} channels of u, got {groups}")
    return groups


def _of_group(weights: Tensor, g: int) -> Tensor:
    """(b, 1, L, n) of group g; weights without groups, or with one, serve all."""
    if weights.ndim == 3:
        weights = weights[:, None]
    g = min(g, weights.shape[1] - 1)
    return weights[:, g : g + 1].transpose(2, 3)
