"""Asked once before kernels are trusted with a user's training: do they compute what the torch backend computes?

Each operator is checked by itself, and in each precision when it is first given it: code for 16 bits is other code than
that for fp32, and a training in fp16 compiles no kernels that it does not use. The sizes are small and of the kind that
networks have, so that most of what is compiled here is what is launched later.
"""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..scan_arguments import ScanArguments
from .toolchain import explained

# Relative to the largest value. In fp32 a kernel that works is three orders below; in 16 bits results are rounded.
TOLERANCES = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def disagreement(operator: str, backend: ModuleType, device: torch.device, dtype: torch.dtype) -> str | None:
    """Run `operator` on little, forward and backward, on `device` with `backend` and with plain torch.

    Args:
        operator: "directional_scan", "directional_ssd" or "causal_conv1d".
        dtype: Of the tensors that a network gives in its own precision.

    Returns:
        None if all results agree, else what went wrong, for the user to read.

    Raises:
        CheckPostponedError: The device has no memory or is in use.
        DeviceLostError: Nothing works on the device after what the kernel did.
    """
    results, trusted = _CHECKS[operator]
    try:
        # The first scan may be seen by a tracer, which would hand out tensors without data; or be a prediction's, in
        # whose mode the kernels of the backward pass, which are run here, would not be compiled side by side.
        with (
            _disable_current_modes(),
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
        ):
            kernels, plain = (
                results(module, device, dtype) for module in (backend, import_module(trusted, __package__))
            )
            pairs = [(a.float(), b.float()) for a, b in zip(kernels, plain, strict=True)]
            error = torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max().item()
    except Exception as failure:  # whatever a compiler, a driver or a device can raise
        return f"it failed here in {_name(dtype)}: {explained(failure, device)}"
    if not error < TOLERANCES[dtype]:  # so that NaN is wrong, too
        return f"its results are wrong here in {_name(dtype)}, by {error:.0e} of the largest value; please report this"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Inputs:
    """Random tensors, the same on every device, and two paths."""

    def __init__(self, device: torch.device, length: int) -> None:
        self.device, self.generator = device, torch.Generator("cpu").manual_seed(0)
        order = torch.arange(length, dtype=torch.int32, device="cpu")  # whatever the default device is
        self.paths = torch.stack([order, order.flip(0)]).to(device)

    def random(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator, device="cpu").to(self.device, dtype)


def _scan_results(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    # SegMamba's kind of scan, and MedSegMamba's: many states, no gate and one input for all directions are other code.
    kinds = (16, True), (40, False)
    return [result for kind in kinds for result in _results_of_a_scan(backend, device, dtype, *kind)]


def _results_of_a_scan(
    backend: ModuleType, device: torch.device, dtype: torch.dtype, state_size: int, gated: bool
) -> list[Tensor]:
    batch, directions, length, channels, rank = 2, 2, 208, 48, 3
    inputs = _Inputs(device, length)
    random = inputs.random
    z, grad_out = (random(batch, length, channels, dtype=dtype) for _ in range(2))
    delta = random(batch, directions, length, channels, dtype=dtype)
    u = random(*(delta.shape if gated else z.shape), dtype=dtype)
    # As in a network: parts of one projection, which begin at no address that is a multiple of 16 bytes.
    projected = random(batch, directions, length, rank + 2 * state_size, dtype=dtype)
    _, B, C = projected.split((rank, state_size, state_size), dim=-1)
    A = -random(directions, channels, state_size).exp()
    D, bias = random(directions, channels), random(directions, channels)
    scan = ScanArguments(u, delta, A, B, C, inputs.paths, D, bias, True, z if gated else None)
    out, states = backend.scan_forward(scan)
    gradients = backend.scan_backward(grad_out, scan, states)
    return [out, *(gradient for gradient in gradients if gradient is not None)]


def _convolution_results(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    batch, directions, length, channels, width = 2, 2, 208, 48, 4
    inputs = _Inputs(device, length)
    x, _ = inputs.random(batch, length, 2 * channels, dtype=dtype).chunk(2, dim=-1)
    weight, bias = inputs.random(directions, channels, width), inputs.random(directions, channels)
    out = backend.conv_forward(x, weight, bias, inputs.paths, True)
    grad_out = inputs.random(*out.shape, dtype=dtype)
    return [out, *backend.conv_backward(grad_out, x, weight, bias, inputs.paths, True)]


def _ssd_results(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    batch, directions, length, heads, head_size, groups, state_size = 1, 2, 1100, 4, 24, 2, 40
    channels = heads * head_size
    inputs = _Inputs(device, length)
    random = inputs.random
    u, z, grad_out = (random(batch, length, channels, dtype=dtype) for _ in range(3))
    delta = random(batch, directions, length, heads, dtype=dtype)
    B, C = (random(batch, directions, length, groups, state_size, dtype=dtype) for _ in range(2))
    A, D, bias = (random(directions, heads) for _ in range(3))
    scan = ScanArguments(u, delta, -A.exp(), B, C, inputs.paths, D, bias, True, z)
    out, states = backend.scan_forward(scan)
    return [out, *backend.scan_backward(grad_out, scan, states)]


# What is run of each operator, and the backend that is trusted with it.
_Results = Callable[[ModuleType, torch.device, torch.dtype], list[Tensor]]
_CHECKS: dict[str, tuple[_Results, str]] = {
    "directional_scan": (_scan_results, ".torch_chunked"),
    "causal_conv1d": (_convolution_results, ".torch_chunked"),
    "directional_ssd": (_ssd_results, ".torch_ssd"),
}
