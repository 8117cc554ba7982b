"""Time to compile what SegMamba's first training step launches (128³, fp16), for a GPU that need not be there.

    python benchmarks/compile_time.py [--capability 90]

As on a GPU: the check of the kernels first, then each stage's convolution and scan, of which each is compiled ahead in
threads when it is first called. Prints wall clock, processor time of all processes, and programs; the folder of
Triton's cache is a fresh one.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "ops"))
from offline_gpu import compiling_for, empty  # noqa: E402

from nnunetv2_mamba.ops.backends import self_check, triton_launch  # noqa: E402
from nnunetv2_mamba.ops.backends import triton as backend  # noqa: E402
from nnunetv2_mamba.ops.scan_arguments import ScanArguments, ScanGradients  # noqa: E402

DTYPE = torch.float16
STAGES = [(96 * 2**stage, (64 // 2**stage) ** 3) for stage in range(4)]  # channels and tokens of SegMamba's scans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="of the GPU: 90 for 9.0")
    capability = parser.parse_args().capability
    with tempfile.TemporaryDirectory() as cache, compiling_for(capability):
        os.environ["TRITON_CACHE_DIR"] = cache
        start, before = time.perf_counter(), processor_seconds()
        self_check._convolution_results(Ahead, torch.device("meta"), DTYPE)
        self_check._scan_results(Ahead, torch.device("meta"), DTYPE)
        for channels, length in STAGES:
            convolution, scan = arguments_of_a_stage(channels, length)
            Ahead.conv_forward(*convolution)
            Ahead.scan_forward(scan)
        wall, used = time.perf_counter() - start, processor_seconds() - before
        programs = len(list(Path(cache).glob("*/*.cubin")))
    print(f"sm_{capability}: {programs} programs, {wall:.1f} s, {used:.1f} s of processors, {os.cpu_count()} cores")


class Ahead:
    """The backend on tensors without data: what is launched for the first time is compiled, and nothing is launched."""

    @staticmethod
    def scan_forward(scan: ScanArguments) -> tuple[Tensor, Tensor]:
        kind = triton_launch.kind_of(scan)
        triton_launch.compile_scan(backend.scan_forward, backend.scan_backward, kind, False, None)
        return backend.scan_forward(scan, launch_nothing)

    @staticmethod
    def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
        return backend.scan_backward(grad_out, scan, states, launch_nothing)

    @staticmethod
    def conv_forward(*arguments: Tensor | bool | None) -> Tensor:
        backend._compile_convolution(triton_launch.kind_of(arguments), False, None)
        return backend.conv_forward(*arguments, launch_nothing)

    @staticmethod
    def conv_backward(grad_out: Tensor, *arguments: Tensor | bool | None) -> tuple[Tensor, Tensor, Tensor | None]:
        return backend.conv_backward(grad_out, *arguments, launch_nothing)


def launch_nothing(*arguments: object, **constants: object) -> None:
    """Take the place of a launch."""


def arguments_of_a_stage(channels: int, length: int) -> tuple[tuple, ScanArguments]:
    """Of the convolution and the scan, as SegMamba's layer gives them."""
    batch, directions, states, width = 2, 3, 16, 4
    rows, d = (batch, directions, length), channels
    x, z = empty(batch, length, 2 * d, dtype=DTYPE).chunk(2, dim=-1)
    B, C = empty(*rows, -(-d // 32) + 2 * states, dtype=DTYPE)[..., -2 * states :].chunk(2, dim=-1)
    paths = empty(directions, length, dtype=torch.int32)
    A, D, bias, weight = (empty(directions, d, *rest, dtype=torch.float32) for rest in ((states,), (), (), (width,)))
    u, delta = empty(*rows, d, dtype=DTYPE), empty(*rows, d, dtype=DTYPE)
    return (x, weight, bias, paths, True), ScanArguments(u, delta, A, B, C, paths, D, bias, True, z)


def processor_seconds() -> float:
    """Used by this process and those that it has started."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
