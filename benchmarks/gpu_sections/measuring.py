"""Times and memory on the device, and how far results are from exact ones."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import torch
from torch import Tensor

from .context import Context

MIB = 2**20


def synchronize(context: Context) -> None:
    """Wait for the GPU, where there is one."""
    if not context.is_dry:
        torch.cuda.synchronize()


def milliseconds(context: Context, function: Callable[[], object], seconds: float = 0.4) -> float:
    """Median time of a call, over about ``seconds``; on the GPU by its own clock."""
    for _ in range(1 if context.is_dry else 3):
        function()
    synchronize(context)
    times, stop = [], time.perf_counter() + (0 if context.is_dry else seconds)
    while len(times) < (1 if context.is_dry else 5) or (time.perf_counter() < stop and len(times) < 200):
        times.append(_time_of_a_call(context, function))
    return sorted(times)[len(times) // 2]


def _time_of_a_call(context: Context, function: Callable[[], object]) -> float:
    if context.is_dry:
        start = time.perf_counter()
        function()
        return (time.perf_counter() - start) * 1e3
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def free_memory(context: Context) -> None:
    """Give back what nothing holds any more, to other processes too."""
    gc.collect()
    if not context.is_dry:
        torch.cuda.empty_cache()


def peak_mib(context: Context, function: Callable[[], object], beyond: bool = False) -> float | None:
    """Most memory allocated during a call in MiB, or ``beyond`` what was before it; None without CUDA."""
    if context.needs_cuda("peak memory"):
        function()
        return None
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if beyond else 0
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def errors(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each tensor over the largest magnitude in it; infinite if not finite.

    A tensor that should be zero throughout is compared as if 1e-30 were its largest magnitude.
    """
    result = {}
    for name, value in exact.items():
        difference = (actual[name].double() - value.double()).abs().max().item()
        finite = bool(torch.isfinite(actual[name]).all())
        result[name] = difference / max(value.abs().max().item(), 1e-30) if finite else float("inf")
    return result
