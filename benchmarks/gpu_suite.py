"""Check and time the Triton backend and the networks on one GPU, in under eight minutes.

    python benchmarks/gpu_suite.py [--out gpu_suite.json]

Needs torch, triton and this repository. Compares with mamba_ssm's CUDA kernel and with nnU-Net's own networks where
those are installed. A section that fails is reported and the others still run; the exit code is 1 if a result is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import triton
import triton.language as tl
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from networks import (  # noqa: E402
    MEDSEGMAMBA_PAPER_INFERENCE_MIB,
    OURS,
    SEGMAMBA_PAPER_TRAINING_MIB,
    Network,
    nnunet_networks,
    training_step,
)

from nnunetv2_mamba.ops import causal_conv1d, directional_scan, scan_order  # noqa: E402
from nnunetv2_mamba.ops.backends import mamba_ssm  # noqa: E402

DEVICE = torch.device("cuda")
MIB = 2**20

# The scans of SegMamba at 128^3 (batch 2) and of MedSegMamba's bottleneck at 96^3: grid, channels, states, orders.
SCANS = {
    "SegMamba stage 1": ((64, 64, 64), 96, 16, scan_order.tri_oriented),
    "SegMamba stage 2": ((32, 32, 32), 192, 16, scan_order.tri_oriented),
    "SegMamba stage 3": ((16, 16, 16), 384, 16, scan_order.tri_oriented),
    "SegMamba stage 4": ((8, 8, 8), 768, 16, scan_order.tri_oriented),
    "MedSegMamba bottleneck": ((12, 12, 12), 1024, 64, lambda grid, device: scan_order.ss3d(grid, 0, device)),
}


# ---------------------------------------------------------------------------------------------- measuring


def milliseconds(function: Callable[[], object], seconds: float = 1.0) -> float:
    """Median time of a call on the GPU, over about `seconds`."""
    for _ in range(3):
        function()
    torch.cuda.synchronize()
    times, stop = [], time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 200):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[len(times) // 2]


def peak_mib(function: Callable[[], object]) -> float:
    """Most memory allocated during a call, beyond what was allocated before it."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def low_precision() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16


def scan_inputs(
    grid: tuple[int, ...], channels: int, states: int, order: Callable, dtype: torch.dtype, batch: int = 2
) -> dict[str, Tensor]:
    """A scan's tensors as the networks make them: tri-oriented with an input per direction and a gate, else neither."""
    torch.manual_seed(0)
    paths = order(grid, DEVICE)
    (directions, length), d, n = paths.shape, channels, states
    gated = directions == 3

    def randn(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, device=DEVICE).to(dtype).requires_grad_()

    steps = torch.empty(directions, d, device=DEVICE).uniform_(-6.9, -2.3).exp_()  # Mamba's 0.001 to 0.1
    return {
        "u": randn(batch, directions, length, d) if gated else randn(batch, length, d),
        "delta": randn(batch, directions, length, d),
        "A": -torch.arange(1.0, n + 1, device=DEVICE).expand(directions, d, n).contiguous().requires_grad_(),
        "B": randn(batch, directions, length, n),
        "C": randn(batch, directions, length, n),
        "paths": paths,
        "D": torch.ones(directions, d, device=DEVICE, requires_grad=True),
        "delta_bias": (steps + torch.log(-torch.expm1(-steps))).requires_grad_(),
        "z": randn(batch, length, d) if gated else None,
    }


def differentiable(tensors: dict[str, Tensor]) -> list[Tensor]:
    return [t for t in tensors.values() if t is not None and t.is_floating_point()]


# ---------------------------------------------------------------------------------------------- correctness


def with_gradients(tensors: dict[str, Tensor], backend: str) -> dict[str, Tensor]:
    out = directional_scan(**tensors, delta_softplus=True, backend=backend)
    given = {name: t for name, t in tensors.items() if t is not None and t.is_floating_point()}
    grad_out = torch.linspace(0, 1e4, out.numel(), dtype=torch.float64, device=DEVICE).cos().view_as(out).to(out.dtype)
    return {"out": out.detach(), **dict(zip(given, torch.autograd.grad(out, given.values(), grad_out), strict=True))}


def in_fp64(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: t.detach().double().requires_grad_() if t is not None and t.is_floating_point() else t
        for name, t in tensors.items()
    }


def errors(actual: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Largest difference of each tensor over the largest magnitude in it; infinite if not finite."""
    result = {}
    for name, value in exact.items():
        finite = bool(torch.isfinite(actual[name]).all())
        difference = (actual[name].double() - value).abs().max() / value.abs().max()
        result[name] = difference.item() if finite else float("inf")
    return result


def check_correctness() -> list[dict]:
    cases = [
        # The definition, a loop over tokens, is the truth for short paths; the torch backend in fp64 for long ones.
        ("small, ragged", ((5, 7, 9), 45, 16, scan_order.tri_oriented), "reference"),
        ("five states", ((4, 4, 4), 8, 5, scan_order.bidirectional), "reference"),
        ("one token", ((1, 1, 1), 3, 16, scan_order.unidirectional), "reference"),
        ("256 states", ((4, 4, 4), 8, 256, scan_order.unidirectional), "reference"),
        *((name, scan, "torch") for name, scan in SCANS.items()),
    ]
    tolerances = {torch.float32: (1e-5, 1e-4), torch.float16: (2e-3, 4e-3), torch.bfloat16: (2e-2, 3e-2)}
    rows = []
    for name, (grid, channels, states, order), truth in cases:
        for dtype in (torch.float32, torch.float16, low_precision()):
            if dtype == torch.float16 and truth == "torch" and low_precision() != torch.float16:
                continue  # one low precision is enough for the large ones
            tensors = scan_inputs(grid, channels, states, order, dtype, batch=1)
            measured = errors(with_gradients(tensors, "triton"), with_gradients(in_fp64(tensors), truth))
            forward, gradient = measured.pop("out"), max(measured.values())
            passed = forward <= tolerances[dtype][0] and gradient <= tolerances[dtype][1]
            worst = max(measured, key=measured.get)
            rows.append(
                {"case": name, "dtype": str(dtype)[6:], "truth": truth, "forward": forward, "gradient": gradient}
                | {"worst gradient": worst, "passed": passed}
            )
    return rows


def check_convolution() -> list[dict]:
    rows = []
    for shared in (True, False):
        paths = scan_order.tri_oriented((12, 10, 14), DEVICE)
        directions, length = paths.shape
        torch.manual_seed(0)
        x = torch.randn(2, *(() if shared else (directions,)), length, 70, device=DEVICE)[..., :35].requires_grad_()
        weight, bias = (torch.randn(directions, 35, *w, device=DEVICE, requires_grad=True) for w in ((4,), ()))

        def run(backend: str, *given: Tensor, paths: Tensor = paths) -> list[Tensor]:
            out = causal_conv1d(*given, paths, backend=backend)
            return [out.detach(), *torch.autograd.grad(out.square().sum(), given)]

        exact = run("reference", *(t.detach().double().requires_grad_() for t in (x, weight, bias)))
        names = ("out", "x", "weight", "bias")
        actual = run("triton", x, weight, bias)
        measured = errors(dict(zip(names, actual, strict=True)), dict(zip(names, exact, strict=True)))
        forward, gradient = measured.pop("out"), max(measured.values())
        rows.append({"case": "shared input" if shared else "input per direction", "forward": forward}
                    | {"gradient": gradient, "passed": forward <= 1e-5 and gradient <= 1e-4})  # fmt: skip
    return rows


def check_determinism() -> list[dict]:
    rows = []
    for name in ("SegMamba stage 1", "MedSegMamba bottleneck"):
        tensors = scan_inputs(*SCANS[name], low_precision())
        first = with_gradients(tensors, "triton")
        again = [with_gradients(tensors, "triton") for _ in range(2)]
        same = all(torch.equal(run[key], value) for run in again for key, value in first.items())
        rows.append({"case": name, "same bits in three runs": same, "passed": same})
    return rows


# ---------------------------------------------------------------------------------------------- speed of the scan


@triton.jit
def exp_kernel(out, repetitions, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = index.to(tl.float32) * 1e-9
    for _ in range(repetitions):
        x = tl.exp2(-x)
    tl.store(out + index, x)


def measure_ceilings() -> list[dict]:
    source = torch.empty(2**29, dtype=torch.float16, device=DEVICE)
    target = torch.empty_like(source)
    copy = milliseconds(lambda: target.copy_(source))
    programs, block, repetitions = 4096, 1024, 1024
    out = torch.empty(programs * block, device=DEVICE)
    exps = milliseconds(lambda: exp_kernel[(programs,)](out, repetitions, BLOCK=block, num_warps=4))
    return [
        {"ceiling": "copy, GB/s read and written", "value": 2 * source.nbytes / copy / 1e6},
        {"ceiling": "exp2, G/s", "value": programs * block * repetitions / exps / 1e6},
    ]


def floors_ms(tensors: dict[str, Tensor], ceilings: dict[str, float]) -> tuple[float, float]:
    """Of a forward: one exp per token, channel, state and direction; every tensor moved once."""
    moved = sum(t.nbytes for t in tensors.values() if t is not None) + tensors["delta"][:, 0].nbytes
    exps = tensors["delta"].numel() * tensors["A"].shape[-1]
    return exps / ceilings["exp2, G/s"] / 1e6, moved / ceilings["copy, GB/s read and written"] / 1e6


def time_scans(ceilings: dict[str, float]) -> list[dict]:
    rows = []
    missing = mamba_ssm.available()
    for name, scan in SCANS.items():
        tensors = scan_inputs(*scan, low_precision())
        row = {"scan": name, **scan_figures(lambda t=tensors: directional_scan(**t, delta_softplus=True), tensors)}
        if ceilings:
            exp_floor, byte_floor = floors_ms(tensors, ceilings)
            row |= {"exp floor ms": exp_floor, "byte floor ms": byte_floor}
            row["forward / floor"] = row["forward ms"] / max(exp_floor, byte_floor)
        if missing is None:
            theirs = mamba_ssm_figures(scan[0], tensors)
            row |= {f"mamba_ssm {key}": value for key, value in theirs.items()}
            row["speed-up"] = theirs["forward + backward ms"] / row["forward + backward ms"]
            row["memory ratio"] = row["extra MiB"] / theirs["extra MiB"]
        rows.append(row)
        del tensors
    if missing is not None:
        print(f"No comparison with mamba_ssm: {missing}")
    return rows


def scan_figures(run: Callable[[], Tensor], tensors: dict[str, Tensor]) -> dict[str, float]:
    inputs = differentiable(tensors)
    grad_out = torch.randn_like(run().detach())

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(run(), inputs, grad_out)

    with torch.no_grad():
        forward = milliseconds(run)
    return {"forward ms": forward, "forward + backward ms": milliseconds(step), "extra MiB": peak_mib(step)}


def mamba_ssm_figures(grid: tuple[int, ...], tensors: dict[str, Tensor]) -> dict[str, float]:
    """mamba_ssm's kernel on the same numbers: flips and stacks for three directions, else gathers through the table."""
    if tensors["z"] is None:
        return scan_figures(lambda: directional_scan(**tensors, delta_softplus=True, backend="mamba_ssm"), tensors)
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    def sequences(t: Tensor) -> list[Tensor]:
        """(b, K, L, c) to a contiguous (b, c, L) for each direction: the kernel's own layout, not timed."""
        return [t[:, k].detach().transpose(1, 2).contiguous().requires_grad_() for k in range(t.shape[1])]

    # What one projection gives: input and gate, (b, 2d, L), which every direction re-orders.
    gate = tensors["z"].detach()[:, None]
    own = {name: sequences(tensors[name]) for name in ("delta", "B", "C")}
    own["xz"] = sequences(torch.cat([tensors["u"].detach()[:, :1], gate], dim=-1))
    parameters = [tensors[name] for name in ("A", "D", "delta_bias")]
    slices = grid[0]

    def run() -> Tensor:
        (xz,) = own["xz"]
        total = 0
        for k in range(3):
            ordered = xz if k == 0 else xz.flip(-1) if k == 1 else torch.stack(xz.chunk(slices, -1), -1).flatten(-2)
            x, z = ordered.chunk(2, dim=1)
            A, D, bias = (p[k] for p in parameters)
            y = selective_scan_fn(
                x, own["delta"][k], A, own["B"][k], own["C"][k], D, z=z, delta_bias=bias, delta_softplus=True
            )
            if k == 1:
                y = y.flip(-1)
            elif k == 2:
                y = y.unflatten(-1, (-1, slices)).transpose(-1, -2).flatten(-2)
            total = total + y
        return total

    leaves = {f"{name}{k}": t for name, ts in own.items() for k, t in enumerate(ts)}
    return scan_figures(run, leaves | dict(enumerate(parameters)))


# ---------------------------------------------------------------------------------------------- networks


def networks() -> dict[str, Network]:
    """Ours and, where they are installed, nnU-Net's."""
    try:
        return OURS | nnunet_networks()
    except ImportError as error:
        print(f"No comparison with nnU-Net's networks: {error}")
        return OURS


def time_training() -> list[dict]:
    rows = []
    for name, network in networks().items():
        torch.manual_seed(0)
        grid = (network.edge,) * 3
        step = training_step(network.build().to(DEVICE).train(), grid, network.channels, 2, low_precision())
        step()  # makes the momenta
        held = torch.cuda.memory_allocated() / MIB
        rows.append(
            {
                "network": name,
                "patch": network.edge,
                "peak MiB": held + peak_mib(step),
                "step ms": milliseconds(step, 5),
            }
        )
        del step
        gc.collect()
        torch.cuda.empty_cache()
    times = {row["network"]: row["step ms"] for row in rows}
    for row in rows:
        without = times.get(f"{row['network']}, no Mamba")
        row["share of the state-space part"] = None if without is None else 1 - without / row["step ms"]
    return rows


def measure_inference() -> list[dict]:
    edge = OURS["MedSegMamba"].edge
    network = OURS["MedSegMamba"].build().to(DEVICE).eval()
    image = torch.randn(1, OURS["MedSegMamba"].channels, edge, edge, edge, device=DEVICE)
    with torch.inference_mode(), torch.autocast(DEVICE.type, low_precision()):
        network(image)
        held = torch.cuda.memory_allocated() / MIB
        peak = held + peak_mib(lambda: network(image))
        return [{"network": "MedSegMamba, 32 classes", "patch": edge, "peak MiB": peak}
                | {"ms": milliseconds(lambda: network(image))}]  # fmt: skip


def against_targets(report: dict[str, list[dict]]) -> list[dict]:
    """The figures that the project promises; None where a section failed or there was nothing to compare with."""

    def find(section: str, first: str, key: str) -> float | None:
        return next((row.get(key) for row in report.get(section, []) if first in row.values()), None)

    def over(value: float | None, reference: float) -> float | None:
        return None if value is None else value / reference

    scan, step = ("scan", "SegMamba stage 1"), "training step"
    share = "share of the state-space part"
    rows = [
        ("stage 1, speed-up over mamba_ssm, at least", find(*scan, "speed-up"), 2.5),
        ("stage 1, extra memory over mamba_ssm's, at most", find(*scan, "memory ratio"), 0.6),
        ("stage 1, forward over its floor, at most", find(*scan, "forward / floor"), 2.0),
        (
            "SegMamba training, memory over the paper's, at most",
            over(find(step, "SegMamba", "peak MiB"), SEGMAMBA_PAPER_TRAINING_MIB),
            0.6,
        ),
        ("SegMamba training, share of the state-space part, at most", find(step, "SegMamba", share), 0.35),
        ("MedSegMamba training, share of the state-space part, at most", find(step, "MedSegMamba", share), 0.35),
        (
            "MedSegMamba inference, memory over the paper's, at most",
            over(find("inference", "MedSegMamba, 32 classes", "peak MiB"), MEDSEGMAMBA_PAPER_INFERENCE_MIB),
            0.75,
        ),
    ]
    return [
        {"figure": name, "measured": value, "target": target}
        | {"reached": None if value is None else value >= target if name.endswith("least") else value <= target}
        for name, value, target in rows
    ]


# ---------------------------------------------------------------------------------------------- report


def table(rows: list[dict]) -> str:
    def show(value: object) -> str:
        if isinstance(value, float):
            return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
        return "-" if value is None else str(value)

    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [[show(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *lines])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu_suite.json"), help="where to write the figures")
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        print("torch sees no CUDA device")
        return 2

    begin = time.perf_counter()
    report: dict = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "low precision": str(low_precision())[6:],
    }
    failures: dict[str, str] = {}
    print(", ".join(f"{key} {value}" for key, value in report.items()))

    def section(name: str, function: Callable[[], list[dict]]) -> list[dict]:
        try:
            report[name] = function()
            print(f"\n## {name}\n\n{table(report[name])}", flush=True)
        except Exception:
            report[name], failures[name] = [], traceback.format_exc()
            print(f"\n## {name}\n\nFAILED\n{failures[name]}", flush=True)
        gc.collect()
        torch.cuda.empty_cache()
        return report[name]

    checks = ("scan against fp64", "convolution against fp64", "determinism")
    for name, check in zip(checks, (check_correctness, check_convolution, check_determinism), strict=True):
        section(name, check)
    ceilings = {row["ceiling"]: row["value"] for row in section("ceilings", measure_ceilings)}
    section("scan", lambda: time_scans(ceilings))
    section("training step", time_training)
    section("inference", measure_inference)
    section("targets", lambda: against_targets(report))

    report["failures"], report["seconds"] = failures, time.perf_counter() - begin
    out.write_text(json.dumps(report, indent=2))
    print(f"\n{report['seconds']:.0f} s; written to {out}")
    wrong = any(name in failures or not all(row["passed"] for row in report[name]) for name in checks)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
