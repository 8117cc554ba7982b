"""Mamba-2's scan (state-space duality) along several paths over one set of tokens, summed."""

from torch import Tensor

from nnunetv2_mamba.ops._scan_operator import register_scan
from nnunetv2_mamba.ops.scan_arguments import ScanArguments
from nnunetv2_mamba.ops.validation import check_ndim, check_scan_input, check_shape

_run = register_scan("directional_ssd")


def directional_ssd(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    paths: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    z: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Scan the tokens along each of K paths with one decay per head, and sum the results.

    The d channels are H heads of P = d / H neighbouring ones; H heads are G groups of H / G neighbouring ones. Position
    p of direction k visits token `paths[k, p]`. With everything read at that token, for a channel of head h and group g

        dl  = softplus(delta[h] + delta_bias[h])      (without softplus: delta[h] + delta_bias[h])
        s_p = exp(dl * A[h]) * s_{p-1} + dl * u * B[g]
        y_p = C[g] . s_p + D[h] * u

    from s = 0 with n numbers; the result is the sum of y over the directions, at the tokens, times silu(z). Unlike
    `directional_scan` it decays all channels and states of a head alike, so that a chunk of a path is a matrix product.
    Differentiable in every floating argument.

    The state, A, D and delta_bias are fp32, whatever autocast says; everything is fp64 if one of u, delta, B, C, z is.

    Args:
        u: Input, (b, L, d), shared by all directions, or (b, K, L, d).
        delta: Step size before bias and softplus, (b, K, L, H).
        A: Decay rates, (K, H), real and as a rule negative.
        B: Input weights, (b, K, L, G, n).
        C: Output weights, (b, K, L, G, n).
        paths: int32 (K, L), each row a permutation of 0 ... L-1; `nnunetv2_mamba.ops.scan_order` makes them. On the CPU
            its range is checked, elsewhere a token out of range is undefined behaviour.
        D: Weight of the input in the output, (K, H).
        delta_bias: Added to delta, (K, H).
        delta_softplus: Whether to apply softplus to delta.
        z: Gate, (b, L, d).
        backend: auto, cpu, triton, torch or reference; None reads NNUNETV2_MAMBA_SCAN (default auto).

    Returns:
        (b, L, d) in u's dtype.

    Raises:
        TypeError: An argument of the wrong dtype.
        ValueError: An argument of the wrong shape or on another device; an unknown backend.
        RuntimeError: A backend asked for by name that cannot be used; the message says what to do.

    Example: a 4 x 6 grid of 8 channels in two heads, scanned forward and backward with states of 16.

        >>> import torch
        >>> from nnunetv2_mamba.ops import directional_ssd, scan_order
        >>> paths = scan_order.bidirectional((4, 6))  # (2, 24)
        >>> u, delta, A = torch.randn(1, 24, 8), torch.randn(1, 2, 24, 2), -torch.rand(2, 2)
        >>> B, C = torch.randn(1, 2, 24, 1, 16), torch.randn(1, 2, 24, 1, 16)
        >>> directional_ssd(u, delta, A, B, C, paths, delta_softplus=True).shape
        torch.Size([1, 24, 8])

    Source: Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State
    Space Duality"; summed over directions as `directional_scan` does.
    """
    scan = ScanArguments(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z)
    _validate(scan)
    return _run(scan, backend)


def _validate(scan: ScanArguments) -> None:
    batch, K, L, d = check_scan_input(scan)
    A, B = scan.A, scan.B
    check_ndim("A", A, "(K, H)")
    check_ndim("B", B, "(b, K, L, G, n)")
    H, G, n = A.shape[-1], B.shape[-2], B.shape[-1]
    if H == 0 or d % H:
        raise ValueError(f"A must have a number of heads that divides the {d} channels of u, got {H}")
    if G == 0 or H % G:
        raise ValueError(f"B must have a number of groups that divides the {H} heads of A, got {G}")
    if n == 0:
        raise ValueError(f"B must have at least one state, got shape {tuple(B.shape)}")
    check_shape("A", A, "(K, H)", K, H)
    check_shape("delta", scan.delta, "(b, K, L, H)", batch, K, L, H)
    check_shape("B", B, "(b, K, L, G, n)", batch, K, L, G, n)
    check_shape("C", scan.C, "(b, K, L, G, n)", batch, K, L, G, n)
    check_shape("D", scan.D, "(K, H)", K, H)
    check_shape("delta_bias", scan.delta_bias, "(K, H)", K, H)
