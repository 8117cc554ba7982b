"""The selective scan on CPU against its definition, the torch backend, the machine's roofline and explicit copies.

    python benchmarks/scan.py [--quick] [--threads N] [--clock wall|cpu] [--json FILE] [--peers]

Prints a table and writes JSON. Everything is a ratio of times taken in turns in one run, or of bytes. A time is the
best of the rounds, because other work on the machine only ever adds to it. Inputs include D, z, delta_bias and
softplus, the paths are rasters, and calls go through the public operator with fresh outputs, as a network makes them.
With --peers it is measured against what else there is for CPUs instead, see `scan_peers.py`.
"""

import argparse
import ctypes
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from scan_peers import PEERS, channels_first
from torch import Tensor

from nnunetv2_mamba.memory.allocator import keep_freed_memory
from nnunetv2_mamba.ops import directional_scan, scan_order
from nnunetv2_mamba.ops.backends import cpu_build

SHAPES = [(1, 32, 8192, 16), (2, 192, 4096, 16), (2, 96, 32768, 16), (2, 1024, 1728, 64), (1, 96, 262144, 16)]
PEER_SHAPES = [(1, 32, 8192, 16), (2, 192, 4096, 16)]  # gradients of the first: the others keep all states
MAIN_SHAPE = (2, 96, 32768, 16)  # (b, d, L, n)
GRID = (32, 32, 32)  # of MAIN_SHAPE's tokens
SIMD_INSTRUCTIONS = (
    13  # per state and vector of channels, at the least: 8 for the decay's exponential and 2 to scale it, 3
)


@dataclass
class Run:
    """What to measure, how often, and by which clock."""

    shapes: list[tuple[int, int, int, int]]
    rounds: int
    clock: Callable[[], float]

    def best_times(self, works: list[Callable[[], object]], times: int = 1) -> list[float]:
        """The shortest time of each piece of work in seconds, all taken in turns, `times` as often as others."""
        taken = [[] for _ in works]
        for round_ in range(self.rounds * times + 1):
            for work, so_far in zip(works, taken, strict=True):
                start = self.clock()
                work()
                if round_ > 0:  # the first warms up
                    so_far.append(self.clock() - start)
        return [min(so_far) for so_far in taken]


@dataclass
class Row:
    """One line of the table: what was measured, against what, the ratio, and what it should reach."""

    what: str
    against: str
    ratio: float
    target: str
    reached: bool
    detail: str


def main() -> None:
    sections = (
        against_the_reference,
        against_torch,
        against_the_roofline,
        against_copies,
        against_outputs,
        against_the_roofline_in_kept_memory,  # last: it changes the process
    )
    measure(__doc__, SHAPES, sections, Path("scan_cpu.json"), extra_memory, peers=against_peers)


def measure(
    description: str,
    shapes: list[tuple[int, ...]],
    sections: Sequence[Callable[[Run], list[Row]]],
    results: Path,
    memory_of: Callable[[tuple[int, ...]], int],
    peers: Callable[[Run], list[Row]] | None = None,
) -> None:
    """The command: run all sections, print their rows, write them as JSON.

    Args:
        description: for the help.
        shapes: the largest last, which --quick leaves out.
        sections: each measures and gives its rows.
        results: where to write by default.
        memory_of: what a process of its own prints of a shape, see `memory_of_a_process`.
        peers: the only section where the command is given --peers; without it there is no such option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and not the largest shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock",
        choices=("wall", "cpu"),
        default="wall",
        help="cpu: the time the program had a core, which tells more on a busy machine; for one thread",
    )
    parser.add_argument("--json", type=Path, default=results, help="where to write the results")
    if peers is not None:
        parser.add_argument("--peers", action="store_true", help="against other implementations for CPUs")
    parser.add_argument("--memory-of", type=int, nargs="+", help=argparse.SUPPRESS)  # a run of this program by itself
    arguments = parser.parse_args()
    if arguments.clock == "cpu" and arguments.threads > 1:
        parser.error("--clock cpu adds up the threads' times; use it with --threads 1")
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(memory_of(tuple(arguments.memory_of)))
        return

    load_before = os.getloadavg()[0]
    run = Run(
        shapes=shapes[:-1] if arguments.quick else shapes,
        rounds=3 if arguments.quick else 7,
        clock=time.process_time if arguments.clock == "cpu" else time.perf_counter,
    )
    rows = []
    for section in (peers,) if peers is not None and arguments.peers else sections:
        for row in section(run):
            target = f"{row.target:8} {'yes' if row.reached else 'NO':3}"
            print(f"{row.what:50} {row.against:27} {row.ratio:8.2f}  {target}  {row.detail}", flush=True)
            rows.append(vars(row))
    content = {
        "date": date.today().isoformat(),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "load_before_and_after": [load_before, os.getloadavg()[0]],
        },
        "torch": torch.__version__,
        "threads": arguments.threads,
        "clock": arguments.clock,
        "rows": rows,
    }
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


# ---- the rows ----


def against_the_reference(run: Run) -> list[Row]:
    """Against the definition, and against the loop over precomputed decays that mamba_ssm calls its reference."""
    b, d, L, n = MAIN_SHAPE
    parts = 16
    whole, part = make_inputs(*MAIN_SHAPE), make_inputs(b, d, L // parts, n)
    works = [
        partial(forward_only, whole, "cpu"),
        partial(forward_only, part, "reference"),
        partial(loop_over_precomputed_decays, whole),
    ]
    ours, definition, precomputed = run.best_times(works)
    rows = []
    for loop, taken, detail in (
        ("ops/definition.py", definition * parts, f"timed over 1/{parts} of the steps, which are all alike"),
        ("loop, decays precomputed", precomputed, "the way of mamba_ssm's selective_scan_ref"),
    ):
        detail = f"{ours * 1e3:.1f} ms, the loop {taken * 1e3:.0f} ms, {detail}"
        rows.append(Row(f"forward {MAIN_SHAPE}", loop, taken / ours, ">= 120", taken / ours >= 120, detail))
    return rows


def against_torch(run: Run) -> list[Row]:
    rows = []
    for shape in run.shapes:
        inputs = make_inputs(*shape)
        for what, work in (("forward", forward_only), ("forward + backward", forward_and_backward)):
            ours, theirs = run.best_times([partial(work, inputs, name) for name in ("cpu", "torch")])
            detail = f"{ours * 1e3:.1f} ms, torch {theirs * 1e3:.0f} ms"
            rows.append(Row(f"{what} {shape}", "torch backend", theirs / ours, ">= 8", theirs / ours >= 8, detail))
    return rows


def against_the_roofline(run: Run, memory: str = "fresh memory") -> list[Row]:
    """The roofline of an operation whose arithmetic and memory traffic follow each other."""
    rows = []
    fma_rate, copy_rate = measure_fma_rate(), measure_copy_rate(run)
    for b, d, L, n in (shape for shape in run.shapes if shape[-1] == 16):
        inputs = make_inputs(b, d, L, n)
        (ours,) = run.best_times([partial(forward_only, inputs, "cpu")], times=3)
        # u, delta, z, out, the read of out that precedes its write, and B and C, which all channels share
        bytes_moved = b * L * (d * 5 + 2 * n) * 4
        arithmetic = b * d * L * n * SIMD_INSTRUCTIONS / fma_rate
        ratio = (arithmetic + bytes_moved / copy_rate) / ours
        detail = (
            f"{b * d * L * n / ours / 1e9:.1f} G state updates/s; {fma_rate / 1e9:.0f} G fp32 FMA/s, "
            f"copy {copy_rate / 1e9:.1f} GB/s read + written"
        )
        rows.append(Row(f"forward {(b, d, L, n)}", f"roofline, {memory}", ratio, ">= 0.8", ratio >= 0.8, detail))
    return rows


def against_the_roofline_in_kept_memory(run: Run) -> list[Row]:
    """Without the operating system's work of mapping new pages for every output, which no ceiling has."""
    return against_the_roofline(run, "kept memory") if keep_freed_memory() else []


def against_copies(run: Run) -> list[Row]:
    """Three directions by tables, and the same kernel on volumes that are flipped and permuted for each direction."""
    b, d, L, n = MAIN_SHAPE
    inputs = make_inputs(b, d, L, n, directions=3)
    inputs["paths"] = scan_order.tri_oriented(GRID)
    torch.testing.assert_close(scan(inputs, "cpu"), scan_with_copies(inputs, every_input=True), rtol=1e-4, atol=1e-4)

    def with_copies(every_input: bool) -> None:
        differentiate(scan_with_copies(inputs, every_input), inputs)

    works = [partial(forward_and_backward, inputs, "cpu"), partial(with_copies, True), partial(with_copies, False)]
    ours, all_copied, some_copied = run.best_times(works)
    rows = []
    for copied, time_ in (("u, z, delta, B, C and out", all_copied), ("u, z and out only", some_copied)):
        what = f"3 directions forward + backward {(b, d, L, n)}"
        detail = f"{ours * 1e3:.0f} ms, with copies of {copied} {time_ * 1e3:.0f} ms"
        rows.append(Row(what, "flips and permutes", time_ / ours, ">= 1.6", time_ / ours >= 1.6, detail))
    return rows


def against_outputs(run: Run) -> list[Row]:
    """Peak memory of a process above its inputs: outputs, gradients, saved states and scratch."""
    rows = []
    if not Path("/proc/self/clear_refs").exists():
        return rows
    for b, d, L, n in (shape for shape in run.shapes if shape[2] * shape[1] > 2**20):
        extra = memory_of_a_process(__file__, (b, d, L, n))
        inputs = make_inputs(b, d, L, n)
        outputs = sum(t.nbytes for t in differentiable(inputs).values()) + inputs["u"].nbytes
        ratio = extra / outputs
        detail = f"{extra / 2**20:.0f} MiB for {outputs / 2**20:.0f} MiB of output and gradients"
        what = f"memory of forward + backward {(b, d, L, n)}"
        rows.append(Row(what, "outputs and gradients", ratio, "<= 1.3", ratio <= 1.3, detail))
    return rows


def against_peers(run: Run) -> list[Row]:
    """Against other implementations for CPUs: those that are installed, which must agree first; others are named."""
    rows = []
    for peer in PEERS:
        if (reason := peer.missing()) is not None:
            print(f"{peer.name}: {reason}", file=sys.stderr)
            continue
        for shape in PEER_SHAPES:
            inputs = make_inputs(*shape)
            tensors = [t.detach().requires_grad_() for t in peer.arrange(inputs)]
            with torch.no_grad():
                theirs = peer.scan(*tensors)
            if peer.arrange is channels_first:
                theirs = theirs.transpose(1, 2)
            torch.testing.assert_close(theirs, scan(inputs, "cpu").detach(), rtol=1e-3, atol=1e-3)
            works = {"forward": (partial(forward_only, inputs, "cpu"), torch.no_grad()(partial(peer.scan, *tensors)))}
            if peer.differentiable and shape == PEER_SHAPES[0]:
                backward = partial(differentiate_all, peer.scan, tensors)
                works["forward + backward"] = (partial(forward_and_backward, inputs, "cpu"), backward)
            for what, pair in works.items():
                ours, theirs = run.best_times(list(pair))
                detail = f"{ours * 1e3:.1f} ms, theirs {theirs * 1e3:.0f} ms"
                rows.append(Row(f"{what} {shape}", peer.name, theirs / ours, ">= 1", theirs >= ours, detail))
    return rows


def differentiate_all(function: Callable[..., Tensor], tensors: list[Tensor]) -> None:
    out = function(*tensors)
    torch.autograd.grad(out, tensors, out.detach())


def memory_of_a_process(program: str, shape: tuple[int, ...]) -> int:
    """What `program` prints for this shape in a process of its own."""
    command = [sys.executable, program, "--threads", str(torch.get_num_threads()), "--memory-of", *map(str, shape)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# ---- what is measured ----


def make_inputs(b: int, d: int, L: int, n: int, directions: int = 1) -> dict[str, Tensor]:
    """Values as at the start of training: A = -1 ... -n, steps around 0.02."""
    torch.manual_seed(0)
    K = directions
    tensors = {
        "u": torch.randn(b, L, d),
        "delta": torch.randn(b, K, L, d) * 0.5,
        "A": -torch.arange(1.0, n + 1).repeat(K, d, 1),
        "B": torch.randn(b, K, L, n),
        "C": torch.randn(b, K, L, n),
        "D": torch.ones(K, d),
        "delta_bias": torch.full((K, d), -4.0),
        "z": torch.randn(b, L, d),
    }
    return {name: t.requires_grad_() for name, t in tensors.items()} | {"paths": scan_order.unidirectional((L,))}


def differentiable(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in inputs.items() if t.requires_grad}


def scan(inputs: dict[str, Tensor], backend: str) -> Tensor:
    return directional_scan(**inputs, delta_softplus=True, backend=backend)


@torch.no_grad()
def loop_over_precomputed_decays(inputs: dict[str, Tensor]) -> Tensor:
    """One direction, (b, d, L) as in mamba_ssm: exp(delta A) and delta B u of all steps, then a loop over them."""
    u, z, delta = (t.transpose(1, 2).contiguous() for t in (inputs["u"], inputs["z"], inputs["delta"][:, 0]))
    A, B, C = inputs["A"][0], inputs["B"][:, 0], inputs["C"][:, 0]
    delta = F.softplus(delta + inputs["delta_bias"][0][:, None])
    decays = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    added = torch.einsum("bdl,bln,bdl->bdln", delta, B, u)
    h, y = torch.zeros_like(decays[:, :, 0]), []
    for p in range(u.shape[-1]):
        h = decays[:, :, p] * h + added[:, :, p]
        y.append(torch.einsum("bdn,bn->bd", h, C[:, p]))
    return (torch.stack(y, 2) + inputs["D"][0][:, None] * u) * F.silu(z)


def forward_only(inputs: dict[str, Tensor], backend: str) -> None:
    with torch.no_grad():
        scan(inputs, backend)


def forward_and_backward(inputs: dict[str, Tensor], backend: str) -> None:
    differentiate(scan(inputs, backend), inputs)


def differentiate(out: Tensor, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    # z has the output's shape: a gradient of the output for free
    return torch.autograd.grad(out, tuple(differentiable(inputs).values()), inputs["z"].detach())


def scan_with_copies(inputs: dict[str, Tensor], every_input: bool) -> Tensor:
    """Every direction as a raster scan of a rearranged volume, gated, rearranged back and added, as SegMamba does it.

    Args:
        inputs: Of three directions: raster, reversed raster, inter-slice.
        every_input: Whether delta, B and C are rearranged as well; a network that computes them from the rearranged
            volume has them in the direction's order.
    """
    L = inputs["u"].shape[1]
    slices = GRID[0]
    there = [lambda t: t, lambda t: t.flip(1), lambda t: interleave(t, slices)]
    back = [lambda t: t, lambda t: t.flip(1), lambda t: interleave(t, L // slices)]
    total = 0
    for k in range(3):
        tokens = {name: inputs[name][:, k] for name in ("delta", "B", "C")}
        if every_input:
            tokens = {name: there[k](t) for name, t in tokens.items()}
        y = directional_scan(
            u=there[k](inputs["u"]),
            **{name: t[:, None] for name, t in tokens.items()},
            **{name: inputs[name][k : k + 1] for name in ("A", "D", "delta_bias")},
            paths=scan_order.unidirectional((L,)),
            delta_softplus=True,
            z=there[k](inputs["z"]),
            backend="cpu",
        )
        total = total + back[k](y)
    return total


def interleave(t: Tensor, slices: int) -> Tensor:
    """Take the first token of every one of `slices` equal parts, then the second of every part, and so on; a copy."""
    return t.unflatten(1, (slices, -1)).transpose(1, 2).flatten(1, 2)


def extra_memory(shape: tuple[int, ...]) -> int:
    """Bytes by which forward and backward raise this process's peak of resident memory."""
    forward_and_backward(make_inputs(1, 1, 1, 1), "cpu")
    return raised_peak(make_inputs(*shape), partial(scan, backend="cpu"))


def raised_peak(inputs: dict[str, Tensor], operator: Callable[[dict[str, Tensor]], Tensor]) -> int:
    """Bytes by which the operator and its gradients raise this process's peak of resident memory."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident_bytes("VmRSS")
    out = operator(inputs)
    gradients = differentiate(out, inputs)
    peak = resident_bytes("VmHWM")
    del gradients
    return peak - before


def resident_bytes(field: str) -> int:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def measure_copy_rate(run: Run) -> float:
    """Bytes read and written per second by a copy much larger than the caches."""
    source = torch.ones(2**26)
    target = torch.empty_like(source).copy_(source)
    (taken,) = run.best_times([partial(target.copy_, source)], times=3)
    return 2 * source.nbytes / taken


def measure_fma_rate() -> float:
    """fp32 multiply-adds per second of all threads."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma_rate.so"
        source = Path(__file__).with_name("fma_rate.cpp")
        flags = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-pthread")
        subprocess.run([*cpu_build.find_compiler().command, *flags, source, "-o", library], check=True)
        function = ctypes.CDLL(str(library)).fma_rate
        function.argtypes, function.restype = (ctypes.c_int, ctypes.c_double), ctypes.c_double
        return function(torch.get_num_threads(), 0.5)


def cpu_model() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
