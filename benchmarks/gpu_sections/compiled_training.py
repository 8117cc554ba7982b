"""A training step of each network under torch.compile, nnU-Net's default on a GPU: all are compiled side by side."""

from __future__ import annotations

import time

import torch
from torch import nn

from .context import Context
from .measuring import free_memory
from .steps import training_step
from .training import WARM_UP, measured, sized


def run(context: Context, job: str) -> None:
    """Emit a row for the network that the job names."""
    network = sized(context, job)
    # What a CPU would compile is another thing, and takes minutes; there the graphs are made and run as they are.
    backend = "aot_eager" if context.needs_cuda("torch.compile's compiler") else "inductor"

    def compiled(module: nn.Module) -> nn.Module:
        return torch.compile(module, backend=backend)

    start = time.perf_counter()
    step = training_step(context, network, compiled=compiled)
    step()
    first = time.perf_counter() - start
    for _ in range(WARM_UP):
        step()
    free_memory(context)
    with context.measuring():
        row = measured(context, job, network, "training, compiled", step)
    context.emit(row | {"first step s": first})
