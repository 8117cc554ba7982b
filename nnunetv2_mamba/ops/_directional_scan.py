"""Selective scans along several paths over one set of tokens, summed: the operation the networks are made of."""

from torch import Tensor

from nnunetv2_mamba.ops._scan_operator import register_scan
from nnunetv2_mamba.ops.scan_arguments import ScanArguments
from nnunetv2_mamba.ops.validation import check_ndim, check_scan_input, check_shape

_run = register_scan("directional_scan")


def directional_scan(
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
    """Scan the tokens along each of K paths and sum the results.

    Position p of direction k visits token `paths[k, p]`. With everything read at that token,

        dl  = softplus(delta + delta_bias)      (without softplus: delta + delta_bias)
        h_p = exp(dl * A) * h_{p-1} + dl * B * u
        y_k = C . h_p + D * u                   (written at that token)

    and the result is `sum_k y_k`, times `silu(z)` if z is given. Differentiable in every floating argument.

    The state, A, D and delta_bias are fp32, whatever autocast says; everything is fp64 if one of u, delta, B, C, z is.

    Args:
        u: Input, (b, L, d), shared by all directions, or (b, K, L, d).
        delta: Step size before bias and softplus, (b, K, L, d).
        A: Decay rates, (K, d, n), real and as a rule negative.
        B: Input weights, (b, K, L, n).
        C: Output weights, (b, K, L, n).
        paths: int32 (K, L), each row a permutation of 0 ... L-1; `nnunetv2_mamba.ops.scan_order` makes them. On the CPU
            its range is checked, elsewhere a token out of range is undefined behaviour.
        D: Weight of the input in the output, (K, d).
        delta_bias: Added to delta, (K, d).
        delta_softplus: Whether to apply softplus to delta.
        z: Gate, (b, L, d).
        backend: auto, cpu, triton, mamba_ssm, torch or reference; None reads NNUNETV2_MAMBA_SCAN (default auto).
            Under torch.compile the choice is made while tracing.

    Returns:
        (b, L, d) in u's dtype.

    Raises:
        TypeError: An argument of the wrong dtype.
        ValueError: An argument of the wrong shape or on another device; an unknown backend.
        RuntimeError: A backend asked for by name that cannot be used; the message says what to do.

    Example: a 4 x 6 grid of 8 channels, scanned forward and backward with states of 16.

        >>> import torch
        >>> from nnunetv2_mamba.ops import directional_scan, scan_order
        >>> paths = scan_order.bidirectional((4, 6))  # (2, 24)
        >>> u, delta = torch.randn(1, 24, 8), torch.randn(1, 2, 24, 8)
        >>> A, B, C = -torch.rand(2, 8, 16), torch.randn(1, 2, 24, 16), torch.randn(1, 2, 24, 16)
        >>> directional_scan(u, delta, A, B, C, paths, delta_softplus=True).shape
        torch.Size([1, 24, 8])

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"; summed over directions as in
    SegMamba (Xing et al.) and MedSegMamba (Cao et al.).
    """
    scan = ScanArguments(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z)
    _validate(scan)
    return _run(scan, backend)


def _validate(scan: ScanArguments) -> None:
    batch, K, L, d = check_scan_input(scan)
    A = scan.A
    check_ndim("A", A, "(K, d, n)")
    n = A.shape[-1]
    if n == 0:
        raise ValueError(f"A must have at least one state, got shape {tuple(A.shape)}")
    check_shape("delta", scan.delta, "(b, K, L, d)", batch, K, L, d)
    check_shape("A", A, "(K, d, n)", K, d, n)
    check_shape("B", scan.B, "(b, K, L, n)", batch, K, L, n)
    check_shape("C", scan.C, "(b, K, L, n)", batch, K, L, n)
    check_shape("D", scan.D, "(K, d)", K, d)
    check_shape("delta_bias", scan.delta_bias, "(K, d)", K, d)
