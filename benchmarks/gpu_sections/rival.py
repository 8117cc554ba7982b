"""mamba_ssm's selective scan beside ours, on the same numbers, where its kernel is installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from nnunetv2_mamba.ops.backends import mamba_ssm

from .context import NOT_POSSIBLE, Context
from .measuring import free_memory
from .operator_cases import SCANS, Tensors, fitting, scan, scan_inputs
from .speed import BATCH, DTYPE, figures


@dataclass(frozen=True)
class Comparison:
    """A scan in two ways: the result of each, and the tensors it is differentiated in."""

    ours: Callable[[], Tensor]
    our_tensors: Tensors
    theirs: Callable[[], Tensor]
    their_tensors: Tensors


def run(context: Context, job: str) -> None:
    """Emit a row for every size: our times, theirs, and the ratio."""
    if context.needs_cuda("mamba_ssm's kernel"):
        return
    if (problem := mamba_ssm.available()) is not None:
        context.emit({NOT_POSSIBLE: problem})
        return
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    for name, sizes in fitting(context, SCANS).items():
        tensors = scan_inputs(context, sizes, DTYPE, BATCH)
        comparison = comparison_of(sizes.grid, tensors, selective_scan_fn, "triton")
        context.emit({"size": name} | figures_of(context, comparison))
        free_memory(context)


def figures_of(context: Context, comparison: Comparison) -> dict[str, float | None]:
    """Time both; "speed-up" is of a forward and a backward pass."""
    ours = figures(context, comparison.ours, comparison.our_tensors)
    theirs = figures(context, comparison.theirs, comparison.their_tensors)
    times = [each["forward ms"] + each["backward ms"] for each in (ours, theirs)]
    return ours | {f"mamba_ssm {key}": value for key, value in theirs.items()} | {"speed-up": times[1] / times[0]}


def comparison_of(
    grid: tuple[int, ...], tensors: Tensors, their_scan: Callable[..., Tensor], backend: str
) -> Comparison:
    """Return the scan of ``tensors`` by ``backend`` and by ``their_scan``, which has mamba_ssm's arguments.

    With a gate, for SegMamba's three directions, as its released layer does it: one projection's input and gate,
    flipped and stacked for each direction, results brought back and added. Else by a gather through the table.
    """
    if tensors["z"] is None:
        return Comparison(lambda: scan(tensors, backend), tensors, lambda: scan(tensors, "mamba_ssm"), tensors)

    def sequences(t: Tensor) -> list[Tensor]:
        """(b, K, L, c) to a contiguous (b, c, L) for each direction: the kernel's own layout, not timed."""
        return [t[:, k].detach().transpose(1, 2).contiguous().requires_grad_() for k in range(t.shape[1])]

    gate = tensors["z"].detach()[:, None]
    own = {name: sequences(tensors[name]) for name in ("delta", "B", "C")}
    (xz,) = sequences(torch.cat([tensors["u"].detach()[:, :1], gate], dim=-1))
    slices = grid[0]

    def theirs() -> Tensor:
        total = 0
        for k in range(3):
            ordered = xz if k == 0 else xz.flip(-1) if k == 1 else torch.stack(xz.chunk(slices, -1), -1).flatten(-2)
            x, z = ordered.chunk(2, dim=1)
            A, D, bias = (tensors[name][k] for name in ("A", "D", "delta_bias"))
            y = their_scan(
                x, own["delta"][k], A, own["B"][k], own["C"][k], D, z=z, delta_bias=bias, delta_softplus=True
            )
            if k == 1:
                y = y.flip(-1)
            elif k == 2:
                y = y.unflatten(-1, (-1, slices)).transpose(-1, -2).flatten(-2)
            total = total + y
        return total

    leaves: Tensors = {f"{name}{k}": t for name, ts in own.items() for k, t in enumerate(ts)}
    leaves |= {"xz": xz} | {name: tensors[name] for name in ("A", "D", "delta_bias")}
    return Comparison(lambda: scan(tensors, backend), tensors, theirs, leaves)
