"""Compile what the other sections run, in as many processes as there are cores: triton keeps kernels on the disk.

Each piece of work is a call that the others make too, on fewer tokens. Two processes may meet at a kernel and both
compile it, which costs time and no harm. What fails here fails again where it is measured, and is judged there.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from networks import ONE_OF_EACH, OURS

from nnunetv2_mamba.ops import backend_selection

from .context import Context
from .correctness import DTYPES
from .operator_cases import (
    ODD_SCANS,
    ODD_SSDS,
    SCANS,
    SSDS,
    Sizes,
    convolution,
    convolution_inputs,
    fitting,
    scan,
    scan_inputs,
    with_gradients,
)
from .sections import BACKEND, NETWORKS, SSD_BACKEND, WITHOUT_MAMBA
from .steps import training_step

# Of the networks' scans those that differ in a kernel: most stages of SegMamba differ in channels alone.
ALIKE = ("SegMamba stage 3", "SegMamba stage 4")
FEW_TOKENS = {
    **{f"scan, {name}": sizes for name, sizes in ODD_SCANS.items()},
    "scan, SegMamba": SCANS["SegMamba stage 4"],
    "scan, MedSegMamba": SCANS["MedSegMamba bottleneck"],
    **{f"Mamba-2, {name}": sizes for name, sizes in ODD_SSDS.items()},
    **{f"Mamba-2, {name}": replace(sizes, grid=(6, 6, 6)) for name, sizes in SSDS.items() if name not in ALIKE},
}


def run(context: Context, job: str) -> None:
    """Ask for a backend, or compile every ``count``-th piece of work from the ``number``-th on."""
    if job == BACKEND:
        emit_backend(context)
    elif job == SSD_BACKEND:
        emit_ssd_backend(context)
    else:
        number, count = (int(word) for word in job.split(" of "))
        compile_pieces(context, number, count)


def emit_backend(context: Context) -> None:
    """Emit which backend the device's tensors get.

    Another than the kernel for the device is a failure: the networks would run in plain torch operations.
    """
    wanted = "cpu" if context.is_dry else "triton"
    name, reason = backend_selection.choose_backend(context.device_type)
    context.emit({"backend of": "the scan", "found": f"{name}: {reason}", "passed": name == wanted or context.is_dry})


def emit_ssd_backend(context: Context) -> None:
    """Emit whether Mamba-2's Triton kernels compute here what plain torch does."""
    if not context.needs_cuda("the check of Mamba-2's Triton kernels"):
        problem = backend_selection.unavailable("triton", backend_selection.SSD)
        context.emit({"backend of": "Mamba-2's scan, triton", "found": problem or "usable", "passed": problem is None})


def compile_pieces(context: Context, number: int, count: int) -> None:
    """Do a share of the work; emit how long each piece took."""
    context.needs_cuda("compiling the Triton kernels")
    for name, work in list(pieces(context).items())[number - 1 :: count]:
        start = time.perf_counter()
        try:
            work()
            row = {"compiled": name, "seconds": time.perf_counter() - start}
        except Exception:
            row = {"compiled": name, "failed": traceback.format_exc(limit=-1).strip().splitlines()[-1]}
        context.emit(row)


def pieces(context: Context) -> dict[str, Callable[[], object]]:
    """What compiles kernels, the longest first, by name."""
    work: dict[str, Callable[[], object]] = {}
    for name in (*NETWORKS, *WITHOUT_MAMBA):
        work[f"a step of {name}"] = partial(_step, context, name)
    for dtype_name, dtype in DTYPES.items():
        for name, sizes in fitting(context, FEW_TOKENS).items():
            work[f"{name}, {dtype_name}"] = partial(_scan, context, sizes, dtype)
        work[f"convolution, {dtype_name}"] = partial(_convolutions, context, dtype)
    return work


def _scan(context: Context, sizes: Sizes, dtype: torch.dtype) -> None:
    tensors = scan_inputs(context, sizes, dtype, batch=1)
    with_gradients(scan, tensors, "torch" if context.is_dry else "triton", dtype)


def _convolutions(context: Context, dtype: torch.dtype) -> None:
    for channels, shared in product((32, 35), (True, False)):  # rows that are aligned, and odd ones
        tensors = convolution_inputs(context, (4, 4, 4), channels, dtype, 1, shared)
        with_gradients(convolution, tensors, "torch" if context.is_dry else "triton", dtype)


def _step(context: Context, name: str) -> None:
    network = {**OURS, **ONE_OF_EACH}[name]
    network = network.made_small() if context.is_dry else network
    training_step(context, network, batch=1)()
