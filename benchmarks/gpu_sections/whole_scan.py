"""MedSegMamba over a whole brain scan with its paper's sliding windows: steps of 32 and of 16 voxels."""

from __future__ import annotations

import time
from itertools import product

import torch
from networks import ONE_OF_EACH
from published import MEDSEGMAMBA_SECONDS
from torch import Tensor, nn

from .context import Context
from .measuring import free_memory, peak_mib, synchronize
from .steps import half_precision
from .training import sized

EDGE = 256  # voxels of FreeSurfer's images along every axis


def run(context: Context, job: str) -> None:
    """Emit a row for each step, the quick one first; the paper's seconds are of a Quadro RTX 6000."""
    name = "MedSegMamba"
    network = sized(context, name)
    edge = network.edge + 4 if context.is_dry else EDGE
    image = torch.randn(1, ONE_OF_EACH[name].channels, edge, edge, edge, device=context.device)
    model = network.build().to(context.device).eval()
    with torch.inference_mode(), half_precision(context):
        for _ in range(1 if context.is_dry else 3):
            model(image[..., : network.edge, : network.edge, : network.edge])
        for step, paper in MEDSEGMAMBA_SECONDS.items():
            stride = step * network.edge // 96
            windows = len(starts(edge, network.edge, stride)) ** 3
            synchronize(context)
            start = time.perf_counter()
            with context.measuring():
                peak = peak_mib(context, lambda stride=stride: segment(model, image, network.edge, stride))
            synchronize(context)
            seconds = time.perf_counter() - start
            row = {"step": stride, "scan": edge, "windows": windows, "seconds": seconds, "peak MiB": peak}
            context.emit(row | {"ms a window": seconds / windows * 1e3, "the paper's seconds": paper})
            free_memory(context)


def segment(model: nn.Module, image: Tensor, patch: int, step: int) -> Tensor:
    """Return the labels of an image: the softmaxes of all windows added up, every voxel of a window alike.

    Args:
        image: (1, channels, *grid), no axis below ``patch``.
        patch: voxels of a window along each axis.
        step: voxels between two windows.
    """
    grid, total = image.shape[2:], None
    for corner in product(*(starts(size, patch, step) for size in grid)):
        window = (..., *(slice(first, first + patch) for first in corner))
        probabilities = model(image[window]).softmax(1)
        if total is None:
            total = probabilities.new_zeros(1, probabilities.shape[1], *grid, dtype=torch.float32)
        total[window] += probabilities
    return total.argmax(1)


def starts(size: int, patch: int, step: int) -> list[int]:
    """First voxels of the windows along an axis: every ``step`` voxels, and a last one that ends with the axis."""
    return [*range(0, size - patch, step), size - patch]
