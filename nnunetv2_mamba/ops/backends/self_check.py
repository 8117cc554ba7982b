"""Asked once before kernels are trusted with a user's training: do they compute what the torch backend computes?"""

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from ..scan_arguments import ScanArguments
from . import torch_chunked, torch_ssd

TOLERANCE = 1e-3  # relative to the largest value; a kernel that works is three orders below
# Of Mamba-2's kernels, which round the operands of their products to the inputs' precision.
SSD_TOLERANCES = {torch.float32: TOLERANCE, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def disagreement(backend: ModuleType, device: torch.device) -> str | None:
    """Run a small scan and convolution, forward and backward, on `device` with `backend` and with plain torch.

    Returns:
        None if all results agree, else what went wrong, for the user to read.
    """
    return _difference(_results, backend, torch_chunked, device, TOLERANCE)


def ssd_disagreement(backend: ModuleType, device: torch.device) -> str | None:
    """As `disagreement`, for Mamba-2's scan, in every precision that a network may give."""
    for dtype, tolerance in SSD_TOLERANCES.items():
        results = partial(_ssd_results, dtype=dtype)
        if (reason := _difference(results, backend, torch_ssd, device, tolerance)) is not None:
            return reason
    return None


def _difference(
    results: Callable[[ModuleType, torch.device], list[Tensor]],
    backend: ModuleType,
    trusted: ModuleType,
    device: torch.device,
    tolerance: float,
) -> str | None:
    try:
        # The first scan may be seen by a tracer, which would hand out tensors without data.
        with _disable_current_modes(), torch.no_grad(), torch.autocast(device.type, enabled=False):
            pairs = list(zip(results(backend, device), results(trusted, device), strict=True))
            pairs = [(a.float(), b.float()) for a, b in pairs]
            error = torch.stack([(a - b).abs().max() / b.abs().max() for a, b in pairs]).max().item()
    except Exception as failure:  # whatever a compiler, a driver or a device can raise
        lines = str(failure).strip().splitlines()
        return f"they failed here ({type(failure).__name__}: {lines[0] if lines else 'no message'}); please report this"
    if not error < tolerance:  # so that NaN is wrong, too
        return f"their results are wrong here, by {error:.0e} of the largest value; please report this"
    return None


def _results(backend: ModuleType, device: torch.device) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, directions, length, channels, state_size = 1, 2, 200, 40, 16

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    order = torch.arange(length, dtype=torch.int32)
    paths = torch.stack([order, order.flip(0)]).to(device)
    u, z = random(batch, length, channels), random(batch, length, channels)
    delta = random(batch, directions, length, channels)
    A = -random(directions, channels, state_size).exp()
    B, C = (random(batch, directions, length, state_size) for _ in range(2))
    D, bias = random(directions, channels), random(directions, channels)
    scan = ScanArguments(u, delta, A, B, C, paths, D, bias, True, z)
    out, states = backend.scan_forward(scan)
    gradients = backend.scan_backward(random(batch, length, channels), scan, states)
    weight = random(directions, channels, 4)
    convolved = backend.conv_forward(u, weight, bias, paths, True)
    conv_gradients = backend.conv_backward(random(*convolved.shape), u, weight, bias, paths, True)
    return [out, *gradients, convolved, *conv_gradients]


def _ssd_results(backend: ModuleType, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch, directions, length, heads, head_size, groups, state_size = 1, 2, 1100, 4, 24, 2, 40
    channels = heads * head_size

    def random(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    order = torch.arange(length, dtype=torch.int32)
    paths = torch.stack([order, order.flip(0)]).to(device)
    u, z = random(batch, length, channels), random(batch, length, channels)
    delta = random(batch, directions, length, heads)
    B, C = (random(batch, directions, length, groups, state_size) for _ in range(2))
    A, D, bias = (random(directions, heads, dtype=torch.float32) for _ in range(3))
    scan = ScanArguments(u, delta, -A.exp(), B, C, paths, D, bias, True, z)
    out, states = backend.scan_forward(scan)
    return [out, *backend.scan_backward(random(batch, length, channels), scan, states)]
