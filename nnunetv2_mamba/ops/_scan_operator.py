"""The custom operators of the scans: what torch.compile, torch.export and autograd see.

A scan is registered under its name, as `nnunetv2_mamba::<name>` and `nnunetv2_mamba::<name>_backward`. Both take the
fields of `ScanArguments` and a backend's name, and call that backend's plain functions, `scan_forward(scan)` and
`scan_backward(grad_out, scan, states)`. Those must return contiguous tensors (the latter as `ScanGradients`) and may
assume a stride of 1 along the last axis and a batch that is not empty.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nnunetv2_mamba.ops import backend_selection, definition
from nnunetv2_mamba.ops.scan_arguments import ScanArguments, rows_contiguous
from nnunetv2_mamba.ops.validation import check_tokens

_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor paths, Tensor? D, Tensor? delta_bias, "
    "bool delta_softplus, Tensor? z"
)


def register_scan(name: str) -> Callable[[ScanArguments, str | None], Tensor]:
    """Register the operators of the scan `name` of `backend_selection.OPERATORS`.

    Returns:
        A function of valid arguments and the backend that the user asks for; it gives (b, L, d) in u's dtype.
    """

    def load(backend: str):
        return backend_selection.load(backend, name)

    @torch.library.custom_op(
        f"nnunetv2_mamba::{name}", mutates_args=(), schema=f"({_INPUTS}, str backend) -> (Tensor, Tensor)"
    )
    def forward(*inputs):
        *arguments, backend = inputs
        scan = ScanArguments(*arguments)
        if scan.u.shape[0] == 0:
            return forward_fake(*inputs)
        scan = scan.rows_contiguous()
        check_tokens(scan.paths)
        with torch.autocast(scan.u.device.type, enabled=False):
            return load(backend).scan_forward(scan)

    @forward.register_fake
    def forward_fake(*inputs):
        *arguments, backend = inputs
        scan = ScanArguments(*arguments)
        batch, K, L = scan.delta.shape[:3]
        states_shape = load(backend).states_shape(batch, K, L, scan.u.shape[-1], scan.B.shape[-1])
        return scan.u.new_empty(batch, L, scan.u.shape[-1]), scan.A.new_empty(states_shape)

    # The gradients of the inputs that are given, in the order of the inputs: an operator cannot return an optional one.
    @torch.library.custom_op(
        f"nnunetv2_mamba::{name}_backward",
        mutates_args=(),
        schema=f"(Tensor grad_out, {_INPUTS}, Tensor states, str backend) -> Tensor[]",
    )
    def backward(*inputs):
        grad_out, *arguments, states, backend = inputs
        scan = ScanArguments(*arguments)
        if scan.u.shape[0] == 0:
            return [t.new_zeros(t.shape) for t in scan.differentiable() if t is not None]
        with torch.autocast(scan.u.device.type, enabled=False):
            gradients = load(backend).scan_backward(rows_contiguous(grad_out), scan.rows_contiguous(), states)
        return [gradient for gradient in gradients if gradient is not None]

    @backward.register_fake
    def _(*inputs):
        _, *arguments, _, _ = inputs
        return [t.new_empty(t.shape) for t in ScanArguments(*arguments).differentiable() if t is not None]

    def save_for_backward(ctx, inputs, output):
        *arguments, backend = inputs
        scan = ScanArguments(*arguments)
        ctx.save_for_backward(*scan._replace(delta_softplus=None), output[1])
        ctx.delta_softplus, ctx.backend = scan.delta_softplus, backend
        ctx.set_materialize_grads(False)  # the states have no gradient to allocate zeros for

    def differentiate(ctx, grad_out, grad_states):
        if grad_out is None:
            return (None,) * 11
        *arguments, states = ctx.saved_tensors
        scan = ScanArguments(*arguments)._replace(delta_softplus=ctx.delta_softplus)
        returned = iter(backward(grad_out, *scan, states, ctx.backend))
        du, ddelta, dA, dB, dC, dD, ddelta_bias, dz = (
            None if t is None else next(returned) for t in scan.differentiable()
        )
        return du, ddelta, dA, dB, dC, None, dD, ddelta_bias, None, dz, None

    forward.register_autograd(differentiate, setup_context=save_for_backward)

    def run(scan: ScanArguments, backend: str | None) -> Tensor:
        device, given = scan.u.device, scan.u.dtype
        dtype = definition.compute_dtype(scan.u, scan.delta, scan.B, scan.C, scan.z)
        scan = scan.in_dtype(dtype)
        dtypes = (scan.u.dtype, scan.delta.dtype, scan.B.dtype, scan.C.dtype)
        chosen = backend_selection.resolve(device, dtypes, backend, name)
        if backend_selection.BACKENDS[chosen].composed:
            with torch.autocast(device.type, enabled=False):
                out = getattr(load(chosen), name)(scan)
        else:
            out, _ = forward(*scan, chosen)
        return out.to(given)

    return run
