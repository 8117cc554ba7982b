"""GPU memory of SegMamba's three scans, there and back, without a GPU: ours against mamba_ssm's with flips and stacks.

    python benchmarks/scan_memory.py [--json FILE]

On fake tensors, as `network_memory.py`: every allocation of a forward and backward pass is followed, inputs not
counted. Of mamba_ssm's kernel it follows what its host code allocates (csrc/selective_scan/selective_scan.cpp and
SelectiveScanFn of version 2.2); around it stands the order of operations of `gpu_suite.py`, which measures the same two
on a GPU that has it.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from network_memory import MIB, fake_gpu
from torch import Tensor

from nnunetv2_mamba.ops import directional_scan

BATCH, STATES, LOW_PRECISION = 2, 16, torch.bfloat16
STAGES = ((64, 96), (32, 192), (16, 384), (8, 768))  # SegMamba at 128^3: edge of the grid, channels
AIM = 0.6


class MambaSSM(torch.autograd.Function):
    """Allocates what `selective_scan_fn` with a gate and softplus does, and computes nothing."""

    CHUNK = 2048

    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias):
        (batch, d, length), n = u.shape, A.shape[-1]
        out_z, out = torch.empty_like(z), torch.empty_like(delta)
        states = A.new_empty(batch, d, -(-length // MambaSSM.CHUNK), 2 * n)
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, states, out)
        return out_z

    @staticmethod
    def backward(ctx, grad_out):
        u, delta, A, B, C, D, z, delta_bias, *_ = ctx.saved_tensors
        du, ddelta, dz = torch.empty_like(u), torch.empty_like(delta), torch.empty_like(z)
        dB, dC = B.new_empty(B.shape, dtype=A.dtype), C.new_empty(C.shape, dtype=A.dtype)
        small = (torch.empty_like(t) for t in (A, D, delta_bias))
        dA, dD, dbias = small
        return du, ddelta, dA, dB.to(B.dtype), dC.to(C.dtype), dD, dz, dbias


def extra_mib(step: Callable[[], object], allocations) -> float:
    before = allocations.peak = allocations.alive
    step()
    return (allocations.peak - before) / MIB


def parameters(directions: int, channels: int) -> list[Tensor]:
    """A, D and delta_bias."""
    shapes = ((directions, channels, STATES), (directions, channels), (directions, channels))
    return [torch.empty(shape, requires_grad=True) for shape in shapes]


def activation(*shape: int) -> Tensor:
    return torch.empty(BATCH, *shape, dtype=LOW_PRECISION, requires_grad=True)


def ours(edge: int, d: int) -> float:
    L = edge**3
    with fake_gpu() as allocations:
        u, delta, B, C = activation(3, L, d), activation(3, L, d), activation(3, L, STATES), activation(3, L, STATES)
        z, (A, D, bias) = activation(L, d), parameters(3, d)
        paths = torch.zeros(3, L, dtype=torch.int32)
        grad_out = torch.empty(BATCH, L, d, dtype=LOW_PRECISION)

        def step() -> tuple[Tensor, ...]:
            out = directional_scan(u, delta, A, B, C, paths, D, bias, True, z)
            return torch.autograd.grad(out, [u, delta, A, B, C, D, bias, z], grad_out)

        return extra_mib(step, allocations)


def flips_and_stacks(edge: int, d: int) -> float:
    L = edge**3
    with fake_gpu() as allocations:
        xz = activation(2 * d, L)
        deltas, Bs, Cs = ([activation(c, L) for _ in range(3)] for c in (d, STATES, STATES))
        As, Ds, biases = (list(p.detach().unbind()) for p in parameters(3, d))
        grad_out = torch.empty(BATCH, d, L, dtype=LOW_PRECISION)
        leaves = [xz, *deltas, *Bs, *Cs, *(p.requires_grad_() for p in (*As, *Ds, *biases))]

        def step() -> tuple[Tensor, ...]:
            total = 0
            for k in range(3):
                ordered = xz if k == 0 else xz.flip(-1) if k == 1 else torch.stack(xz.chunk(edge, -1), -1).flatten(-2)
                x, z = ordered.chunk(2, dim=1)
                y = MambaSSM.apply(x, deltas[k], As[k], Bs[k][:, None], Cs[k][:, None], Ds[k], z, biases[k])
                if k == 1:
                    y = y.flip(-1)
                elif k == 2:
                    y = y.unflatten(-1, (-1, edge)).transpose(-1, -2).flatten(-2)
                total = total + y
            return torch.autograd.grad(total, leaves, grad_out)

        return extra_mib(step, allocations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("scan_memory.json"), help="where to write the results")
    path = parser.parse_args().json
    rows = []
    for edge, d in STAGES:
        mine, theirs = ours(edge, d), flips_and_stacks(edge, d)
        rows.append({"grid": edge, "channels": d, "MiB": mine, "flips and stacks MiB": theirs, "ratio": mine / theirs})
        print(
            f"{edge:3}^3, {d:3} channels: {mine:8,.0f} MiB, {theirs:8,.0f} with flips and stacks: {mine / theirs:.2f}"
        )
    results = {"torch": torch.__version__, "counted": "fake tensors", "aim": AIM, "rows": rows}
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
