"""Selective scans along several paths over one set of tokens, summed: the operation the networks are made of.

The custom operators registered here are what torch.compile, torch.export and autograd see. They take a backend's name
and call that backend's plain functions, `scan_forward(scan)` and `scan_backward(grad_out, scan, states)`, with
`ScanArguments`. Those must return contiguous tensors (the latter as `ScanGradients`) and may assume a stride of 1 along
the last axis and a batch that is not empty.
"""

import torch
from torch import Tensor

from nnunetv2_mamba.ops import backend_selection, definition
from nnunetv2_mamba.ops.scan_arguments import ScanArguments, ScanGradients, rows_contiguous
from nnunetv2_mamba.ops.validation import check_floating, check_ndim, check_paths, check_shape, check_tokens


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
    dtype = definition.compute_dtype(u, delta, B, C, z)
    scan = scan.in_dtype(dtype)
    name = backend_selection.resolve(u.device, dtype, backend)
    if name in backend_selection.COMPOSED:
        with torch.autocast(u.device.type, enabled=False):
            out = backend_selection.load(name).directional_scan(scan)
    else:
        out, _ = _scan(*scan, name)
    return out.to(u.dtype)


_DIFFERENTIABLE = ScanGradients._fields


def _validate(scan: ScanArguments) -> None:
    u, A = scan.u, scan.A
    check_floating(u, **dict(zip(_DIFFERENTIABLE, scan.differentiable(), strict=True)))
    K, L = check_paths(u, scan.paths)
    check_ndim("u", u, "(b, L, d)", "(b, K, L, d)")
    check_ndim("A", A, "(K, d, n)")
    batch, d, n = u.shape[0], u.shape[-1], A.shape[-1]
    if d == 0:
        raise ValueError(f"u must have at least one channel, got shape {tuple(u.shape)}")
    if n == 0:
        raise ValueError(f"A must have at least one state, got shape {tuple(A.shape)}")
    if u.ndim == 3:
        check_shape("u", u, "(b, L, d), L as in paths,", batch, L, d)
    else:
        check_shape("u", u, "(b, K, L, d), K and L as in paths,", batch, K, L, d)
    check_shape("delta", scan.delta, "(b, K, L, d)", batch, K, L, d)
    check_shape("A", A, "(K, d, n)", K, d, n)
    check_shape("B", scan.B, "(b, K, L, n)", batch, K, L, n)
    check_shape("C", scan.C, "(b, K, L, n)", batch, K, L, n)
    check_shape("D", scan.D, "(K, d)", K, d)
    check_shape("delta_bias", scan.delta_bias, "(K, d)", K, d)
    check_shape("z", scan.z, "(b, L, d)", batch, L, d)


_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor paths, Tensor? D, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? z"
)


@torch.library.custom_op(
    "nnunetv2_mamba::directional_scan", mutates_args=(), schema=f"({_INPUTS}, str backend) -> (Tensor, Tensor)"
)
def _scan(*inputs):
    *arguments, backend = inputs
    scan = ScanArguments(*arguments)
    if scan.u.shape[0] == 0:
        return _scan_fake(*inputs)
    scan = scan.rows_contiguous()
    check_tokens(scan.paths)
    with torch.autocast(scan.u.device.type, enabled=False):
        return backend_selection.load(backend).scan_forward(scan)


@_scan.register_fake
def _scan_fake(*inputs):
    *arguments, backend = inputs
    scan = ScanArguments(*arguments)
    batch, K, L, d = scan.delta.shape
    states_shape = backend_selection.load(backend).states_shape(batch, K, L, d, scan.A.shape[-1])
    return scan.u.new_empty(batch, L, d), scan.A.new_empty(states_shape)


# The gradients of the inputs that are given, in the order of the inputs: an operator cannot return an optional tensor.
@torch.library.custom_op(
    "nnunetv2_mamba::directional_scan_backward",
    mutates_args=(),
    schema=f"(Tensor grad_out, {_INPUTS}, Tensor states, str backend) -> Tensor[]",
)
def _scan_backward(*inputs):
    grad_out, *arguments, states, backend = inputs
    scan = ScanArguments(*arguments)
    if scan.u.shape[0] == 0:
        return [t.new_zeros(t.shape) for t in scan.differentiable() if t is not None]
    with torch.autocast(scan.u.device.type, enabled=False):
        gradients = backend_selection.load(backend).scan_backward(
            rows_contiguous(grad_out), scan.rows_contiguous(), states
        )
    return [gradient for gradient in gradients if gradient is not None]


@_scan_backward.register_fake
def _scan_backward_fake(*inputs):
    _, *arguments, _, _ = inputs
    return [t.new_empty(t.shape) for t in ScanArguments(*arguments).differentiable() if t is not None]


def _save_for_backward(ctx, inputs, output):
    *arguments, backend = inputs
    scan = ScanArguments(*arguments)
    ctx.save_for_backward(*scan._replace(delta_softplus=None), output[1])
    ctx.delta_softplus, ctx.backend = scan.delta_softplus, backend
    ctx.set_materialize_grads(False)  # the states have no gradient to allocate zeros for


def _differentiate(ctx, grad_out, grad_states):
    if grad_out is None:
        return (None,) * 11
    *arguments, states = ctx.saved_tensors
    scan = ScanArguments(*arguments)._replace(delta_softplus=ctx.delta_softplus)
    returned = iter(_scan_backward(grad_out, *scan, states, ctx.backend))
    du, ddelta, dA, dB, dC, dD, ddelta_bias, dz = (None if t is None else next(returned) for t in scan.differentiable())
    return du, ddelta, dA, dB, dC, None, dD, ddelta_bias, None, dz, None


_scan.register_autograd(_differentiate, setup_context=_save_for_backward)
