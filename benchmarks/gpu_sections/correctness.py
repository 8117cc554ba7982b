"""Every kernel against fp64: results and all gradients, in three precisions, on odd sizes and on the networks'.

The definition, a loop over tokens, is the truth for short paths, the torch backend in fp64 for long ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .context import Context
from .measuring import errors, free_memory
from .operator_cases import (
    ODD_SCANS,
    ODD_SSDS,
    SCANS,
    SSDS,
    Tensors,
    convolution,
    convolution_inputs,
    fitting,
    in_fp64,
    scan,
    scan_inputs,
    with_gradients,
)

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
# Largest relative error of the result and of a gradient.
TOLERANCES = {"fp32": (1e-5, 1e-4), "fp16": (2e-3, 4e-3), "bf16": (2e-2, 3e-2)}
# Mamba-2's scan is products of matrices, whose operands are rounded once more.
SSD_TOLERANCES = {"fp32": (1e-5, 1e-4), "fp16": (4e-3, 4e-3), "bf16": (3e-2, 3e-2)}
LONGEST_LOOP = 400  # tokens


class Case(NamedTuple):
    """What is compared.

    Attributes:
        name, precision: as the results call them.
        operator: of tensors and a backend's name.
        tensors: its arguments.
        backends: that are compared.
        truth: the backend that computes in fp64 what they are compared with.
        tolerances: largest relative error of the result and of a gradient.
    """

    name: str
    precision: str
    operator: Callable[[Tensors, str], Tensor]
    tensors: Tensors
    backends: tuple[str, ...]
    truth: str
    tolerances: tuple[float, float]


def run(context: Context, job: str) -> None:
    """Emit a row for every case of a job, with the largest errors."""
    if job == "repeatability":
        check_repeatability(context)
        return
    for case in cases(context, job):
        dtype = DTYPES[case.precision]
        exact = with_gradients(case.operator, in_fp64(case.tensors), case.truth, dtype)
        for backend in case.backends:
            measured = errors(with_gradients(case.operator, case.tensors, backend, dtype), exact)
            result, worst = measured.pop("out"), max(measured, key=measured.get)
            passed = result <= case.tolerances[0] and measured[worst] <= case.tolerances[1]
            context.emit(
                {"kernel": f"{job.partition(',')[0]}, {backend}", "case": case.name, "dtype": case.precision}
                | {"truth": case.truth, "forward": _number(result), "gradient": _number(measured[worst])}
                | {"worst gradient": worst, "passed": passed}
            )
        free_memory(context)


def cases(context: Context, job: str) -> Iterator[Case]:
    """Yield the cases of a job."""
    kernels = _backends(context, ("triton",))
    if job == "convolution":
        grid = (2, 3, 2) if context.is_dry else (12, 10, 14)
        for precision, dtype in DTYPES.items():
            for name, shared in (("shared input", True), ("input per direction", False)):
                tensors = convolution_inputs(context, grid, 35, dtype, 2, shared)
                yield Case(name, precision, convolution, tensors, kernels, "reference", TOLERANCES[precision])
        return
    sizes, precisions, tolerances = {**ODD_SCANS, **SCANS}, [job.partition(", ")[2]], TOLERANCES
    if job == "mamba2":
        sizes, precisions, tolerances = {**ODD_SSDS, **SSDS}, list(DTYPES), SSD_TOLERANCES
        kernels = _backends(context, ("triton", "torch"))
    for precision in precisions:
        for name, fitted in fitting(context, sizes).items():
            tensors = scan_inputs(context, fitted, DTYPES[precision], batch=1)
            truth = "reference" if tensors["paths"].shape[1] <= LONGEST_LOOP else "torch"
            yield Case(name, precision, scan, tensors, kernels, truth, tolerances[precision])


def check_repeatability(context: Context) -> None:
    """Emit whether three runs give the same bits."""
    for kernel, name, sizes in (
        ("scan", "SegMamba stage 1", SCANS["SegMamba stage 1"]),
        ("scan", "MedSegMamba bottleneck", SCANS["MedSegMamba bottleneck"]),
        ("mamba2", "SegMamba stage 1", SSDS["SegMamba stage 1"]),
    ):
        tensors = scan_inputs(context, sizes.fitting(context), torch.float16, batch=2)
        for backend in _backends(context, ("triton",)):
            first, *again = (with_gradients(scan, tensors, backend, torch.float16) for _ in range(3))
            same = all(torch.equal(other[key], value) for other in again for key, value in first.items())
            context.emit(
                {"kernel": f"{kernel}, {backend}", "case": name, "same bits in three runs": same, "passed": same}
            )
        free_memory(context)


def _backends(context: Context, of_cuda: tuple[str, ...]) -> tuple[str, ...]:
    """What is checked: on a CPU its own kernel and plain torch."""
    return ("cpu", "torch") if context.needs_cuda("the Triton kernels' results") else of_cuda


def _number(error: float) -> float | str:
    """JSON has no infinity."""
    return error if error < float("inf") else "not finite"
