"""Forward and backward pass of the operators in fp16, batch 2, at the networks' sizes, beside their floors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .ceilings import convolution_floors, measure_ceilings, scan_floors, ssd_floors
from .context import Context
from .measuring import free_memory, milliseconds, peak_mib
from .operator_cases import (
    SCANS,
    SSDS,
    Sizes,
    Tensors,
    convolution,
    convolution_inputs,
    differentiable,
    fitting,
    scan,
    scan_inputs,
)

BATCH = 2
DTYPE = torch.float16  # what trainings compute in


def run(context: Context, job: str) -> None:
    """Emit the ceilings, and a row for every operator, backend and size."""
    ceilings = measure_ceilings(context)
    context.emit({"operator": "copy", "what": "GB/s read and written", "measured": ceilings.bytes_per_ms / 1e6})
    context.emit({"operator": "exp2", "what": "10^9 per second", "measured": ceilings.exponentials_per_ms / 1e6})
    kernel = "cpu" if context.needs_cuda("the Triton kernels' times") else "triton"
    for name, sizes in fitting(context, SCANS).items():
        tensors = scan_inputs(context, sizes, DTYPE, BATCH)
        times = figures(context, lambda t=tensors: scan(t, kernel), tensors)
        context.emit({"operator": f"scan, {kernel}", "size": name} | compared(times, scan_floors(ceilings, tensors)))
        free_memory(context)
    for name, sizes in fitting(context, SCANS).items():
        tensors = convolution_of(context, sizes)
        floors = convolution_floors(ceilings, tensors, convolution(tensors, kernel).detach())
        times = figures(context, lambda t=tensors: convolution(t, kernel), tensors)
        context.emit({"operator": f"convolution, {kernel}", "size": name} | compared(times, floors))
        free_memory(context)
    for name, sizes in fitting(context, SSDS).items():
        tensors = scan_inputs(context, sizes, DTYPE, BATCH)
        for backend in (kernel, "torch"):
            times = figures(context, lambda t=tensors, b=backend: scan(t, b), tensors)
            row = compared(times, ssd_floors(ceilings, tensors))
            context.emit({"operator": f"Mamba-2's scan, {backend}", "size": name} | row)
        free_memory(context)


def convolution_of(context: Context, sizes: Sizes) -> Tensors:
    """The convolution before a scan of these sizes, of the half of a projection that is scanned."""
    return convolution_inputs(context, sizes.grid, sizes.channels, DTYPE, BATCH, order=sizes.order)


def figures(context: Context, forward: Callable[[], Tensor], tensors: Tensors) -> dict[str, float | None]:
    """Time of a forward pass and of a backward pass, and what both allocate beyond their inputs."""
    inputs = list(differentiable(tensors).values())
    out = forward()
    grad_out = torch.randn_like(out.detach())

    def backward() -> tuple[Tensor, ...]:
        return torch.autograd.grad(out, inputs, grad_out, retain_graph=True)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(), inputs, grad_out)

    with context.measuring():
        with torch.no_grad():
            forward_ms = milliseconds(context, forward)
        return {
            "forward ms": forward_ms,
            "backward ms": milliseconds(context, backward),
            "extra MiB": peak_mib(context, both, beyond=True),
        }


def compared(times: dict[str, float | None], floors: dict[str, float]) -> dict[str, float | None]:
    """Times and floors, and their ratio: to the higher floor of each pass."""
    row = {**times, **floors}
    for what in ("forward", "backward"):
        row[f"{what} / floor"] = times[f"{what} ms"] / max(floor for name, floor in floors.items() if what in name)
    return row
