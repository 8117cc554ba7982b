"""What scan orders cost: their tables, and the scan along them on the CPU; how near their tokens are to each other.

    python benchmarks/scan_orders.py [--rounds N] [--json FILE]

One thread, by its CPU time, which other work on the machine disturbs little; the least of the rounds. The memory is the
most that Python and numpy held at one time while a table was made, the table included. Takes minutes.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from nnunetv2_mamba.ops import directional_scan, scan_order

MIB = 2**20
TABLES = ("raster", "bidirectional", "tri_oriented", "six_axes", "ss3d", "morton", "hilbert", "random")
GRIDS = ((192, 192, 192), (191, 193, 187), (96, 96, 96))
SCANNED = (64, 64, 64)
CHANNELS, STATES = 32, 16
WITHIN = (8, 64, 512)
CUBE = (32, 32, 32)


def cpu_seconds(function: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def cost_of_table(name: str, grid: tuple[int, ...], rounds: int) -> dict:
    def make() -> torch.Tensor:
        scan_order.tables._cached_table.cache_clear()
        return scan_order.table(name, grid)

    seconds = cpu_seconds(make, rounds)
    scan_order.tables._cached_table.cache_clear()
    tracemalloc.start()
    size = make().nbytes
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {"table": name, "grid": grid, "seconds": seconds, "MiB": size / MIB, "peak MiB": peak / MIB}


def cost_of_scan(name: str, rounds: int) -> dict:
    """Of the first path of a table, forward and backward."""
    torch.manual_seed(0)
    paths = scan_order.table(name, SCANNED)[:1].contiguous()
    length = paths.shape[1]
    u, delta = torch.randn(1, length, CHANNELS), torch.randn(1, 1, length, CHANNELS)
    B, C = torch.randn(1, 1, length, STATES), torch.randn(1, 1, length, STATES)
    A = -torch.rand(1, CHANNELS, STATES)
    inputs = [tensor.requires_grad_() for tensor in (u, delta, A, B, C)]

    def step() -> None:
        directional_scan(*inputs, paths, delta_softplus=True).sum().backward()

    step()
    return {"path": name, "grid": SCANNED, "forward and backward s": cpu_seconds(step, rounds)}


def nearness(name: str) -> dict:
    """Mean distance, in voxels, of two tokens at most so many steps apart, along the first path of a table."""
    path = scan_order.table(name, CUBE)[0].numpy()
    voxels = np.stack(np.unravel_index(path, CUBE), axis=-1)
    row = {"path": name, "grid": CUBE}
    distances = [
        np.sqrt(np.square(voxels[apart:] - voxels[:-apart]).sum(axis=1)).mean() for apart in range(1, max(WITHIN) + 1)
    ]
    row |= {f"within {steps} steps": float(np.mean(distances[:steps])) for steps in WITHIN}
    steps = np.abs(np.diff(voxels, axis=0)).sum(axis=1)
    return row | {"share of steps to a neighbour": float((steps == 1).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("scan_orders.json"), help="where to write the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    one_path = ("raster", "ss3d", "morton", "hilbert", "random")
    results = {
        "tables": [cost_of_table(name, grid, arguments.rounds) for grid in GRIDS for name in TABLES],
        "scans": [cost_of_scan(name, 2 * arguments.rounds) for name in one_path],
        "nearness": [nearness(name) for name in one_path],
    }
    for rows in results.values():
        for row in rows:
            print(*(f"{value:.3f}" if isinstance(value, float) else value for value in row.values()))
    arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
