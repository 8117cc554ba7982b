"""The scans and the causal convolution on CPU, by the C++ kernels of `ops/csrc` (see `cpu_library.py`).

Every function takes plain tensors with validated shapes (see `ops/_directional_scan.py` and `ops/_directional_ssd.py`)
and knows nothing of autograd. The kernels compute in A's (the weight's) dtype, fp32 or fp64: tensors of another dtype,
such as bf16, are converted on the way in and gradients on the way out.
"""

from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from .cpu_library import Call, ConvArgs, ScanArgs, available, fresh

__all__ = ["available", "conv_backward", "conv_forward", "scan_backward", "scan_forward", "states_shape"]


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each chunk, (b, K, chunks, n, d)."""
    return batch, directions, -(-length // _chunk_length(state_size)), state_size, channels


def scan_forward(scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    batch, directions, length = scan.delta.shape[:3]
    channels = scan.u.shape[-1]
    states = fresh(scan.A, states_shape(batch, directions, length, channels, scan.B.shape[-1]))
    out = fresh(scan.A, (batch, length, channels))
    call = _scan_call(scan, states)
    call.put(out=out)
    call.run("nm_scan_forward")
    return out.to(scan.u.dtype), states


def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    inputs = scan.differentiable()
    gradients = ScanGradients(*(None if t is None else fresh(scan.A, t.shape) for t in inputs))
    call = _scan_call(scan, states)
    call.put(grad_out=grad_out, **{f"d{name}": _rows(gradient) for name, gradient in gradients._asdict().items()})
    call.run("nm_scan_backward")
    return ScanGradients(
        *(None if t is None else gradient.to(t.dtype) for t, gradient in zip(inputs, gradients, strict=True))
    )


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool) -> Tensor:
    """The causal depthwise convolution along each path, (b, K, L, d) in x's dtype."""
    out = fresh(weight, (x.shape[0], *paths.shape, x.shape[-1]))
    call = _conv_call(x, weight, bias, paths, silu)
    call.put(out=out)
    call.run("nm_conv_forward")
    return out.to(x.dtype)


def conv_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, weight, bias), None where the input is None."""
    # Not empty_like, which keeps an order of the axes: the kernel fills contiguous memory.
    dx, dweight = fresh(weight, x.shape), weight.new_empty(weight.shape)
    dbias = None if bias is None else bias.new_empty(bias.shape)
    call = _conv_call(x, weight, bias, paths, silu)
    call.put(grad_out=grad_out, dx=dx, dweight=dweight, dbias=dbias)
    call.run("nm_conv_backward")
    return dx.to(x.dtype), dweight, dbias


def _chunk_length(state_size: int) -> int:
    # A multiple of the kernels' tiles of 16 tokens. The saved states cost n / chunk numbers per token and channel.
    return 64 if state_size <= 32 else 128


def _scan_call(scan: ScanArguments, states: Tensor) -> Call:
    batch, directions, length = scan.delta.shape[:3]
    n = scan.B.shape[-1]
    heads, groups = (scan.A.shape[1], scan.B.shape[3]) if scan.B.ndim == 5 else (0, 0)
    args = batch, directions, length, scan.u.shape[-1], n, _chunk_length(n), scan.delta_softplus, heads, groups
    call = Call(ScanArgs(*args), scan.A.dtype)
    tensors = {name: _rows(value) for name, value in scan._asdict().items() if name != "delta_softplus"}
    call.put(**tensors, states=states)
    return call


def _rows(t: Tensor | None) -> Tensor | None:
    """What is per group as one row for each token."""
    return t.flatten(3) if t is not None and t.ndim == 5 else t


def _conv_call(x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool) -> Call:
    call = Call(ConvArgs(x.shape[0], *paths.shape, x.shape[-1], weight.shape[-1], silu), weight.dtype)
    call.put(x=x, weight=weight, bias=bias, paths=paths)
    return call
