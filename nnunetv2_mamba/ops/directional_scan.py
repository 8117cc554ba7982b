"""Selective scans along several paths over one set of tokens, summed: the operation the networks are made of.

The custom operators registered here are what torch.compile, torch.export and autograd see. They take a backend's name
and call that backend's plain functions, `scan_forward` and `scan_backward`, which must return contiguous tensors and
may assume a stride of 1 along the last axis and a batch that is not empty.
"""

import torch
from torch import Tensor

from nnunetv2_mamba.ops import reference, selection
from nnunetv2_mamba.ops.validation import check_floating, check_ndim, check_paths, check_shape


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

    Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces"; summed over directions as in
    SegMamba (Xing et al.) and MedSegMamba (Cao et al.).
    """
    _validate(u, delta, A, B, C, paths, D, delta_bias, z)
    given, dtype = u.dtype, reference.compute_dtype(u, delta, B, C, z)
    if dtype == torch.float64:
        u, delta, B, C = (t.double() for t in (u, delta, B, C))
        z = None if z is None else z.double()
    A = A.to(dtype)
    D = None if D is None else D.to(dtype)
    delta_bias = None if delta_bias is None else delta_bias.to(dtype)
    name = selection.resolve(u.device, dtype, backend)
    arguments = (u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z)
    if name in selection.COMPOSED:
        with torch.autocast(u.device.type, enabled=False):
            out = selection.load(name).directional_scan(*arguments)
    else:
        out, _ = _scan(*arguments, name)
    return out.to(given)


def _validate(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    paths: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    z: Tensor | None,
) -> None:
    check_floating(u, u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias, z=z)
    K, L = check_paths(u, paths)
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
    check_shape("delta", delta, "(b, K, L, d)", batch, K, L, d)
    check_shape("A", A, "(K, d, n)", K, d, n)
    check_shape("B", B, "(b, K, L, n)", batch, K, L, n)
    check_shape("C", C, "(b, K, L, n)", batch, K, L, n)
    check_shape("D", D, "(K, d)", K, d)
    check_shape("delta_bias", delta_bias, "(K, d)", K, d)
    check_shape("z", z, "(b, L, d)", batch, L, d)


_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor paths, Tensor? D, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? z"
)


@torch.library.custom_op(
    "nnunetv2_mamba::directional_scan", mutates_args=(), schema=f"({_INPUTS}, str backend) -> (Tensor, Tensor)"
)
def _scan(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, backend):
    if u.shape[0] == 0:
        return _scan_fake(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, backend)
    u, delta, A, B, C, paths, D, delta_bias, z = map(rows_contiguous, (u, delta, A, B, C, paths, D, delta_bias, z))
    check_tokens(paths)
    with torch.autocast(u.device.type, enabled=False):
        return selection.load(backend).scan_forward(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z)


@_scan.register_fake
def _scan_fake(u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, backend):
    batch, K, L, d = delta.shape
    states_shape = selection.load(backend).states_shape(batch, K, L, d, A.shape[-1])
    return u.new_empty(batch, L, d), A.new_empty(states_shape)


# The gradients of the inputs that are given, in the order of the inputs: an operator cannot return an optional tensor.
@torch.library.custom_op(
    "nnunetv2_mamba::directional_scan_backward",
    mutates_args=(),
    schema=f"(Tensor grad_out, {_INPUTS}, Tensor states, str backend) -> Tensor[]",
)
def _scan_backward(grad_out, u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, states, backend):
    if u.shape[0] == 0:
        return [t.new_zeros(t.shape) for t in (u, delta, A, B, C, D, delta_bias, z) if t is not None]
    tensors = map(rows_contiguous, (grad_out, u, delta, A, B, C, paths, D, delta_bias, z))
    grad_out, u, delta, A, B, C, paths, D, delta_bias, z = tensors
    with torch.autocast(u.device.type, enabled=False):
        gradients = selection.load(backend).scan_backward(
            grad_out, u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, states
        )
    return [gradient for gradient in gradients if gradient is not None]


@_scan_backward.register_fake
def _scan_backward_fake(grad_out, u, delta, A, B, C, paths, D, delta_bias, delta_softplus, z, states, backend):
    return [t.new_empty(t.shape) for t in (u, delta, A, B, C, D, delta_bias, z) if t is not None]


def _save_for_backward(ctx, inputs, output):
    *tensors, delta_softplus, z, backend = inputs
    ctx.save_for_backward(*tensors, z, output[1])
    ctx.delta_softplus, ctx.backend = delta_softplus, backend
    ctx.set_materialize_grads(False)  # the states have no gradient to allocate zeros for


def _differentiate(ctx, grad_out, grad_states):
    if grad_out is None:
        return (None,) * 11
    u, delta, A, B, C, paths, D, delta_bias, z, states = ctx.saved_tensors
    gradients = iter(
        _scan_backward(grad_out, u, delta, A, B, C, paths, D, delta_bias, ctx.delta_softplus, z, states, ctx.backend)
    )
    du, ddelta, dA, dB, dC, dD, ddelta_bias, dz = (
        None if t is None else next(gradients) for t in (u, delta, A, B, C, D, delta_bias, z)
    )
    return du, ddelta, dA, dB, dC, None, dD, ddelta_bias, None, dz, None


_scan.register_autograd(_differentiate, setup_context=_save_for_backward)


def rows_contiguous(t: Tensor | None) -> Tensor | None:
    """`t` itself if its last axis has a stride of 1, otherwise a contiguous copy."""
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


def check_tokens(paths: Tensor) -> None:
    """ValueError if a table on the CPU points outside its L tokens; elsewhere looking would stall the device."""
    if paths.device.type == "cpu":
        low, high = (int(bound) for bound in paths.aminmax())
        if low < 0 or high >= paths.shape[1]:
            raise ValueError(f"paths must hold tokens from 0 to {paths.shape[1] - 1}, got {low} to {high}")
