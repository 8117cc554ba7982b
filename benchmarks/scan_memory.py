"""GPU memory of SegMamba's scans, counted without a GPU: ours against mamba_ssm's with flips and stacks.

    python benchmarks/scan_memory.py [--json FILE]

A whole Mamba layer: input projection, convolution, projections and scan of three directions, gated sum, output
projection. On fake tensors, as `network_memory.py`: every allocation is followed. "Kept" is what the forward pass
leaves for the backward pass, "peak" the most in use during both; the layer's input and output are not counted as kept.
Of mamba_ssm it follows what `MambaInnerFnNoOutProj` with its default recomputation and the CUDA kernel's host code
allocate (version 2.2, read, not run), and around it SegMamba's own operations.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from network_memory import MIB, fake_gpu
from torch import Tensor, nn

from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer

BATCH, STATES, TAPS, CHUNK = 2, 16, 4, 2048
LOW_PRECISION = torch.bfloat16
STAGES = ((64, 48), (32, 96), (16, 192), (8, 384))  # SegMamba at 128^3: edge of the grid, channels
AIM = 0.6


class MambaInner(torch.autograd.Function):
    """Allocates what one direction of the reference does, and computes nothing."""

    @staticmethod
    def forward(ctx, xz, conv_weight, conv_bias, x_proj, dt_proj, A, D, dt_bias):
        batch, d, L = xz.shape[0], xz.shape[1] // 2, xz.shape[2]
        u = xz.new_empty(batch, d, L)
        rows = xz.new_empty(batch * L, d)  # of u, for the projection
        projected = xz.new_empty(batch * L, x_proj.shape[0])
        del rows
        delta, out, gated = (xz.new_empty(batch, d, L) for _ in range(3))
        B, C = (xz.new_empty(batch, 1, STATES, L) for _ in range(2))
        states = A.new_empty(batch, d, -(-L // CHUNK), 2 * STATES)
        del u, delta  # made again in the backward pass
        ctx.save_for_backward(xz, conv_weight, conv_bias, x_proj, dt_proj, A, D, dt_bias, projected, B, C, states, out)
        return gated

    @staticmethod
    def backward(ctx, grad_out):
        xz, *parameters, projected, B, _, _, _ = ctx.saved_tensors
        batch, d, L = grad_out.shape
        grad_out = grad_out.contiguous()
        u, delta, du, ddelta, gated = (xz.new_empty(batch, d, L) for _ in range(5))
        dxz = torch.empty_like(xz)
        sums = [B.new_empty(B.shape, dtype=torch.float32) for _ in range(2)]
        dB, dC = (s.to(B.dtype) for s in sums)
        del sums
        dprojected = torch.empty_like(projected)
        for gradient in (dB, dC):
            torch.empty_like(gradient)  # as rows, for a moment
        rows = [xz.new_empty(d, batch * L) for _ in range(2)]  # of ddelta and du
        u_rows = xz.new_empty(batch * L, d)
        del u, delta, du, ddelta, gated, dB, dC, dprojected, rows, u_rows
        return dxz, *(torch.empty_like(p) for p in parameters)


def measure(forward: Callable[[], Tensor], inputs: list[Tensor], grad_out: Tensor, allocations) -> dict[str, float]:
    def step() -> None:
        torch.autograd.grad(forward(), inputs, grad_out)

    step()  # makes what is made once, such as the paths' tables
    before = allocations.peak = allocations.alive
    out = forward()
    kept = allocations.alive - before - out.untyped_storage().nbytes()
    del out
    step()
    return {"kept MiB": kept / MIB, "peak MiB": (allocations.peak - before) / MIB}


def ours(edge: int, channels: int) -> dict[str, float]:
    with fake_gpu() as allocations:
        layer = sequence_mixer("mamba", channels, nn.Conv3d)
        tokens, grad_out = (torch.empty(BATCH, edge**3, channels, dtype=LOW_PRECISION) for _ in range(2))

        def forward() -> Tensor:
            with torch.autocast("cpu", LOW_PRECISION):
                return layer(tokens, (edge,) * 3)

        return measure(forward, [tokens.requires_grad_(), *layer.parameters()], grad_out, allocations)


def flips_and_stacks(edge: int, channels: int) -> dict[str, float]:
    L, d, rank = edge**3, 2 * channels, -(-channels // 16)
    shapes = ((d, TAPS), (d,), (rank + 2 * STATES, d), (d, rank), (d, STATES), (d,), (d,))
    with fake_gpu() as allocations:
        tokens, grad_out = (torch.empty(BATCH, L, channels, dtype=LOW_PRECISION) for _ in range(2))
        in_proj, out_proj = nn.Linear(channels, 2 * d, bias=False), nn.Linear(d, channels, bias=False)
        directions = [[torch.empty(shape, requires_grad=True) for shape in shapes] for _ in range(3)]

        def forward() -> Tensor:
            first, second, third = directions
            with torch.autocast("cpu", LOW_PRECISION):
                xz = in_proj.weight @ tokens.flatten(0, 1).T
                xz = xz.unflatten(1, (BATCH, L)).transpose(0, 1)
                total = MambaInner.apply(xz, *first)
                total = total + MambaInner.apply(xz.flip(-1), *second).flip(-1)
                slices = torch.stack(xz.chunk(edge, -1), -1).flatten(-2)
                y = MambaInner.apply(slices, *third).unflatten(-1, (-1, edge)).transpose(-1, -2).flatten(-2)
                return out_proj((total + y).transpose(1, 2))

        parameters = [in_proj.weight, out_proj.weight, *(p for direction in directions for p in direction)]
        return measure(forward, [tokens.requires_grad_(), *parameters], grad_out, allocations)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("scan_memory.json"), help="where to write the results")
    path = parser.parse_args().json
    rows = []
    for edge, channels in STAGES:
        mine, theirs = ours(edge, channels), flips_and_stacks(edge, channels)
        row = {"grid": edge, "channels": 2 * channels, "ours": mine, "flips and stacks": theirs}
        row["ratio"] = {name: mine[name] / theirs[name] for name in mine}
        rows.append(row)
        parts = (f"{name} {mine[name]:7,.0f}, theirs {theirs[name]:7,.0f} ({row['ratio'][name]:.2f})" for name in mine)
        print(f"{edge:3}^3, {2 * channels:3} channels: " + ";  ".join(parts), flush=True)
    results = {"torch": torch.__version__, "counted": "fake tensors", "aim": AIM, "rows": rows}
    path.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
