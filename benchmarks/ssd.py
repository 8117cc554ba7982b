"""Mamba-2's scan on CPU against Mamba's, the torch backend, the machine's roofline and the size of its results.

    python benchmarks/ssd.py [--quick] [--threads N] [--clock wall|cpu] [--json FILE]

As `scan.py`, whose measures these are: ratios of times taken in turns in one run, or of bytes. Shapes are (b, d, L, n,
P), P channels to a head; inputs include D, z, delta_bias and softplus, the paths are rasters.
"""

from functools import partial
from pathlib import Path

import scan
import torch
from scan import Row, Run, differentiate
from torch import Tensor

from nnunetv2_mamba.memory.allocator import keep_freed_memory
from nnunetv2_mamba.ops import directional_ssd, scan_order

SHAPES = [
    (2, 96, 32768, 16, 24),
    (2, 96, 32768, 64, 24),
    (2, 96, 32768, 128, 24),
    (2, 640, 1728, 32, 80),  # U-Mamba2's layer
    (1, 96, 262144, 16, 24),
]
# How much faster than Mamba's scan of the same size, forward, and forward and backward.
AIMS = {16: (1.5, 1.3), 32: (1.5, 1.3), 64: (2.5, 2.0), 128: (2.5, 2.0)}
TILE = 16  # tokens, of the kernel
GATE = 16  # vector instructions of silu, at the least: 8 for an exponential and 2 to scale it, 6 for the rest


def main() -> None:
    sections = (
        against_mamba,
        against_torch,
        torch_against_torch,
        against_the_roofline,
        against_outputs,
        in_kept_memory,  # last: it changes the process
    )
    scan.measure(__doc__, SHAPES, sections, Path("ssd_cpu.json"), extra_memory)


def against_mamba(run: Run, memory: str = "") -> list[Row]:
    """The CPU kernels of both scans at the same sizes."""
    rows = []
    for shape in run.shapes:
        mamba, mamba2 = scan.make_inputs(*shape[:4]), make_inputs(*shape)
        works = [partial(scan.forward_only, mamba, "cpu"), partial(forward_only, mamba2, "cpu")]
        works += [partial(scan.forward_and_backward, mamba, "cpu"), partial(forward_and_backward, mamba2, "cpu")]
        times = run.best_times(works)
        for what, aim, theirs, ours in zip(
            ("forward", "forward + backward"), AIMS[shape[3]], *_pairs(times), strict=True
        ):
            rows.append(_faster(f"{what} {shape}", f"Mamba's CPU kernel{memory}", theirs, ours, aim))
    return rows


def against_torch(run: Run) -> list[Row]:
    """The kernel against chunked matrix products in torch."""
    rows = []
    for shape in run.shapes:
        inputs = make_inputs(*shape)
        works = [
            partial(work, inputs, backend)
            for work in (forward_only, forward_and_backward)
            for backend in ("torch", "cpu")
        ]
        for what, theirs, ours in zip(("forward", "forward + backward"), *_pairs(run.best_times(works)), strict=True):
            rows.append(_faster(f"{what} {shape}", "torch backend", theirs, ours, 3))
    return rows


def torch_against_torch(run: Run) -> list[Row]:
    """Both scans in plain torch operations, on the longest path."""
    shape = max(run.shapes, key=lambda shape: shape[2])
    mamba, mamba2 = scan.make_inputs(*shape[:4]), make_inputs(*shape)
    works = [partial(scan.forward_only, mamba, "torch"), partial(forward_only, mamba2, "torch")]
    works += [partial(scan.forward_and_backward, mamba, "torch"), partial(forward_and_backward, mamba2, "torch")]
    times = Run(run.shapes, 3, run.clock).best_times(works)
    return [
        _faster(f"torch backend, {what} {shape}", "Mamba's torch backend", theirs, ours, 5)
        for what, theirs, ours in zip(("forward", "forward + backward"), *_pairs(times), strict=True)
    ]


def against_the_roofline(run: Run, memory: str = ", fresh memory") -> list[Row]:
    """The roofline of an operation whose arithmetic and memory traffic follow each other, forward."""
    rows = []
    fma_rate, copy_rate = scan.measure_fma_rate(), scan.measure_copy_rate(run)
    for shape in run.shapes:
        b, d, L, n, P = shape
        inputs = make_inputs(*shape)
        (ours,) = run.best_times([partial(forward_only, inputs, "cpu")], times=3)
        # u, z, out and the read of out that precedes its write; delta per head, and B and C, which all channels share
        bytes_moved = b * L * (d * 4 + d // P + 2 * n) * 4
        # the state's update and its product with C; within a tile, half of its tokens on average; the gate
        arithmetic = b * L * d * (2 * n + (TILE + 1) / 2 + GATE) / fma_rate
        ratio = (arithmetic + bytes_moved / copy_rate) / ours
        detail = f"{fma_rate / 1e9:.0f} G fp32 FMA/s, copy {copy_rate / 1e9:.1f} GB/s read + written"
        rows.append(Row(f"forward {shape}", f"roofline{memory}", ratio, ">= 0.6", ratio >= 0.6, detail))
    return rows


def against_outputs(run: Run) -> list[Row]:
    """Peak memory of a process above its inputs: outputs, gradients, saved states and scratch."""
    rows = []
    if not Path("/proc/self/clear_refs").exists():
        return rows
    for shape in run.shapes:
        extra = scan.memory_of_a_process(__file__, shape)
        inputs = make_inputs(*shape)
        outputs = sum(t.nbytes for t in scan.differentiable(inputs).values()) + inputs["u"].nbytes
        detail = f"{extra / 2**20:.0f} MiB for {outputs / 2**20:.0f} MiB of output and gradients"
        what = f"memory of forward + backward {shape}"
        rows.append(Row(what, "outputs and gradients", extra / outputs, "<= 1.3", extra / outputs <= 1.3, detail))
    return rows


def in_kept_memory(run: Run) -> list[Row]:
    """As in a training, which keeps the memory it frees: fresh pages cost both kernels the same."""
    if not keep_freed_memory():
        return []
    return [*against_mamba(run, ", kept memory"), *against_the_roofline(run, ", kept memory")]


def _pairs(times: list[float]) -> tuple[list[float], list[float]]:
    return times[::2], times[1::2]


def _faster(what: str, against: str, theirs: float, ours: float, aim: float) -> Row:
    detail = f"{ours * 1e3:.1f} ms, theirs {theirs * 1e3:.1f} ms"
    return Row(what, against, theirs / ours, f">= {aim}", theirs / ours >= aim, detail)


# ---- what is measured ----


def make_inputs(b: int, d: int, L: int, n: int, P: int) -> dict[str, Tensor]:
    """Values as at the start of training: A from -1 to -16, steps around 0.02."""
    torch.manual_seed(0)
    H = d // P
    tensors = {
        "u": torch.randn(b, L, d),
        "delta": torch.randn(b, 1, L, H) * 0.5,
        "A": -torch.linspace(1, 16, H).view(1, H),
        "B": torch.randn(b, 1, L, 1, n),
        "C": torch.randn(b, 1, L, 1, n),
        "D": torch.ones(1, H),
        "delta_bias": torch.full((1, H), -4.0),
        "z": torch.randn(b, L, d),
    }
    return {name: t.requires_grad_() for name, t in tensors.items()} | {"paths": scan_order.unidirectional((L,))}


def ssd(inputs: dict[str, Tensor], backend: str) -> Tensor:
    return directional_ssd(**inputs, delta_softplus=True, backend=backend)


def forward_only(inputs: dict[str, Tensor], backend: str) -> None:
    with torch.no_grad():
        ssd(inputs, backend)


def forward_and_backward(inputs: dict[str, Tensor], backend: str) -> None:
    differentiate(ssd(inputs, backend), inputs)


def extra_memory(shape: tuple[int, ...]) -> int:
    """Bytes by which forward and backward raise this process's peak of resident memory."""
    forward_and_backward(make_inputs(1, 1, 1, 1, 1), "cpu")
    return scan.raised_peak(make_inputs(*shape), partial(ssd, backend="cpu"))


if __name__ == "__main__":
    main()
