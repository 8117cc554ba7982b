"""What each kind of KAN block keeps in memory, and needs at its peak, against the MLP of the same place.

    python benchmarks/kan_memory.py [--json FILE]

Counts the bytes of every tensor that autograd saves, each once and parameters not at all, in fp32 and under bfloat16
autocast. They grow with the number of voxels and channels, so the table gives them per voxel and channel. The last row
is the block of rational functions as plain torch would differentiate it, without the custom autograd function.

What the backward pass allocates for a moment (the basis of a checkpointed layer, polynomials) is in two peaks of
forward and backward pass, without input and weights but with their gradients: of a block, per voxel and channel; and
of the whole network for nnU-Net's six-stage BraTS plan and a batch of two patches of 128 voxels a side, traced with
tensors that have no data.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.architectures import MSDKMamba
from nnunetv2_mamba.architectures.msd_kmamba.kan import KINDS, kan_block
from nnunetv2_mamba.architectures.msd_kmamba.kan.rational import IDENTITY, SILU, GroupRational, rational
from nnunetv2_mamba.memory.tracker import AllocationTracker

CHANNELS, GRID = 32, (16, 16, 16)
PRECISIONS = {"fp32": None, "bf16 autocast": torch.bfloat16}
STRIDES, PATCH = [1, 2, 2, 2, 2, 2], (128, 128, 128)


class PlainRational(GroupRational):
    """Whose backward pass torch works out."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rational(x, self.numerator, self.denominator)


def plain_rational_block() -> nn.Sequential:
    _, expand, _, compress = kan_block("rational", CHANNELS, nn.Conv3d)
    return nn.Sequential(PlainRational(CHANNELS, IDENTITY), expand, PlainRational(2 * CHANNELS, SILU), compress)


def bytes_saved(block: nn.Module, dtype: torch.dtype | None) -> int:
    """Bytes of the storages that autograd keeps between forward and backward pass of a block."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in block.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    x = torch.randn(1, CHANNELS, *GRID, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            result = block(x)
    assert result.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in parameters)


def peak_bytes(module: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> int:
    """Most bytes in use at once in a forward and backward pass, without ``x`` and the weights."""
    with AllocationTracker() as tracker:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            results = module(x)
        sum(result.float().mean() for result in results).backward()
    return sum(tracker.peak.values())


def network_peak(kan: str, dtype: torch.dtype | None) -> int:
    widths = MSDKMamba.default_features(len(STRIDES))
    with FakeTensorMode():
        network = MSDKMamba(4, len(STRIDES), widths, nn.Conv3d, 3, STRIDES, 4, deep_supervision=True, kan=kan)
        return peak_bytes(network, torch.randn(2, 4, *PATCH), dtype)


def with_ratios(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: row | {f"{precision} / mlp": row[precision] / rows["mlp"][precision] for precision in PRECISIONS}
        for name, row in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "kan_memory.json")
    arguments = parser.parse_args()
    blocks = {kind: kan_block(kind, CHANNELS, nn.Conv3d) for kind in KINDS}
    blocks["rational, plain torch"] = plain_rational_block()
    elements = CHANNELS * torch.Size(GRID).numel()
    kept, peaks, networks = {}, {}, {}
    for name, block in blocks.items():
        x = torch.randn(1, CHANNELS, *GRID, requires_grad=True)
        kept[name] = {p: bytes_saved(block, dtype) / elements for p, dtype in PRECISIONS.items()}
        peaks[name] = {p: peak_bytes(block, x, dtype) / elements for p, dtype in PRECISIONS.items()}
    for kind in KINDS:
        networks[kind] = {p: network_peak(kind, dtype) / 2**30 for p, dtype in PRECISIONS.items()}
    tables = {
        "bytes per voxel and channel": with_ratios(kept),
        "peak of the block, bytes per voxel and channel": with_ratios(peaks),
        "peak of the network, GiB": with_ratios(networks),
    }
    for title, rows in tables.items():
        print(title)
        for name, row in rows.items():
            print(f"  {name:<24}" + "".join(f"{column}: {value:6.2f}   " for column, value in row.items()))
    result = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "channels": CHANNELS,
        "grid": GRID,
        **tables,
    }
    arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
