"""The causal depthwise convolution along paths: what Mamba puts before the scan, reading through the same table."""

from types import ModuleType

import torch
from torch import Tensor

from nnunetv2_mamba.ops import backend_selection, definition
from nnunetv2_mamba.ops.scan_arguments import rows_contiguous
from nnunetv2_mamba.ops.validation import check_floating, check_ndim, check_paths, check_shape, check_tokens


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    paths: Tensor,
    activation: str | None = "silu",
    backend: str | None = None,
) -> Tensor:
    """Convolve every channel along each of K paths; the result stands at the token of its position.

    Position p of direction k, at token `paths[k, p]`, is `bias + sum_i weight[..., i] * x` over the tokens of positions
    p-w+1 ... p, with zeros before the start of the path. Differentiable in x, weight and bias.

    Args:
        x: (b, L, d), shared by all directions, or (b, K, L, d); copied unless its last stride is 1.
        weight: (K, d, w), the last entry meets the position itself. Computed in fp32 (fp64 for fp64 x).
        bias: (K, d) or None.
        paths: int32 (K, L), as in `directional_scan`.
        activation: "silu" or None.
        backend: As in `directional_scan`; mamba_ssm has no such convolution and leaves it to the automatic choice.

    Returns:
        (b, K, L, d) in x's dtype.

    Raises:
        TypeError: An argument of the wrong dtype.
        ValueError: An argument of the wrong shape or on another device; an unknown activation or backend.
        RuntimeError: A backend asked for by name that cannot be used; the message says what to do.

    Example: the sum of a token and the one before it on a row of four, and on the way back.

        >>> import torch
        >>> from nnunetv2_mamba.ops import causal_conv1d, scan_order
        >>> x, weight = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]), torch.ones(2, 1, 2)
        >>> causal_conv1d(x, weight, None, scan_order.bidirectional((1, 4)), activation=None).squeeze().tolist()
        [[1.0, 3.0, 5.0, 7.0], [3.0, 5.0, 7.0, 4.0]]
    """
    check_floating(x, x=x, weight=weight, bias=bias)
    K, L = check_paths(x, paths)
    check_ndim("x", x, "(b, L, d)", "(b, K, L, d)")
    check_ndim("weight", weight, "(K, d, w)")
    batch, d, w = x.shape[0], x.shape[-1], weight.shape[-1]
    if x.ndim == 3:
        check_shape("x", x, "(b, L, d), L as in paths,", batch, L, d)
    else:
        check_shape("x", x, "(b, K, L, d), K and L as in paths,", batch, K, L, d)
    if d == 0:
        raise ValueError(f"x must have at least one channel, got shape {tuple(x.shape)}")
    if w == 0:
        raise ValueError(f"weight must have at least one tap, got shape {tuple(weight.shape)}")
    check_shape("weight", weight, "(K, d, w)", K, d, w)
    check_shape("bias", bias, "(K, d)", K, d)
    if activation not in ("silu", None):
        raise ValueError(f"activation must be 'silu' or None, got {activation!r}")

    dtype = definition.compute_dtype(x)
    weight = weight.to(dtype)
    bias = None if bias is None else bias.to(dtype)
    name = backend_selection.resolve(x.device, (x.dtype,), backend, backend_selection.CONVOLUTION)
    if backend_selection.BACKENDS[name].composed:
        with torch.autocast(x.device.type, enabled=False):
            return _module(name).causal_conv1d(x, weight, bias, paths, activation)
    return _convolve(x, weight, bias, paths, activation == "silu", name)


def _module(backend: str) -> ModuleType:
    return backend_selection.load(backend, backend_selection.CONVOLUTION)


@torch.library.custom_op(
    "nnunetv2_mamba::causal_conv1d",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor? bias, Tensor paths, bool silu, str backend) -> Tensor",
)
def _convolve(x, weight, bias, paths, silu, backend):
    if x.shape[0] == 0:
        return _convolve_fake(x, weight, bias, paths, silu, backend)
    x, weight, bias, paths = map(rows_contiguous, (x, weight, bias, paths))
    check_tokens(paths)
    with torch.autocast(x.device.type, enabled=False):
        return _module(backend).conv_forward(x, weight, bias, paths, silu)


@_convolve.register_fake
def _convolve_fake(x, weight, bias, paths, silu, backend):
    return x.new_empty(x.shape[0], *paths.shape, x.shape[-1])


# The gradients of x, weight and, if there is one, bias: an operator cannot return an optional tensor.
@torch.library.custom_op(
    "nnunetv2_mamba::causal_conv1d_backward",
    mutates_args=(),
    schema="(Tensor grad_out, Tensor x, Tensor weight, Tensor? bias, Tensor paths, bool silu, str backend) -> Tensor[]",
)
def _convolve_backward(grad_out, x, weight, bias, paths, silu, backend):
    if x.shape[0] == 0:
        return [t.new_zeros(t.shape) for t in (x, weight, bias) if t is not None]
    grad_out, x, weight, bias, paths = map(rows_contiguous, (grad_out, x, weight, bias, paths))
    with torch.autocast(x.device.type, enabled=False):
        gradients = _module(backend).conv_backward(grad_out, x, weight, bias, paths, silu)
    return [gradient for gradient in gradients if gradient is not None]


@_convolve_backward.register_fake
def _convolve_backward_fake(grad_out, x, weight, bias, paths, silu, backend):
    return [t.new_empty(t.shape) for t in (x, weight, bias) if t is not None]


def _save_for_backward(ctx, inputs, output):
    x, weight, bias, paths, ctx.silu, ctx.backend = inputs
    ctx.save_for_backward(x, weight, bias, paths)


def _differentiate(ctx, grad_out):
    x, weight, bias, paths = ctx.saved_tensors
    dx, dweight, *dbias = _convolve_backward(grad_out, x, weight, bias, paths, ctx.silu, ctx.backend)
    return dx, dweight, dbias[0] if dbias else None, None, None, None


_convolve.register_autograd(_differentiate, setup_context=_save_for_backward)
