"""Optimisers' parameter groups and the learning-rate schedule of the default recipes."""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn
from torch.optim import Optimizer


def parameter_groups(network: nn.Module, weight_decay: float, decay_vectors: bool) -> list[dict[str, Any]]:
    """Split the parameters into those with and those without weight decay.

    Without it: what a network marks ``_no_weight_decay`` (A_log, D and dt biases, whose decay would change how long the
    state-space model remembers) and, unless ``decay_vectors``, everything one-dimensional (biases and norms).
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in network.parameters():
        marked = getattr(parameter, "_no_weight_decay", False)
        spare = marked or (parameter.ndim <= 1 and not decay_vectors)
        (spared if spare else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def fused_option(device: torch.device) -> bool | None:
    """Return ``fused`` for torch's optimisers: a tenth of the time per step on a CPU, where each tensor is read once.

    None, torch's own choice, where not every supported torch has the kernel (MPS).
    """
    return True if device.type in ("cpu", "cuda") else None


class WarmupPolyLR(PolyLRScheduler):
    """nnU-Net's polynomial decay times a linear ramp from 1 % to 100 % over the first ``warmup_steps``.

    Steps may be fractions (of an epoch). nnU-Net's own warm-up schedules count whole epochs and need a second
    scheduler, so a training of ten epochs cannot warm up over half an epoch.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: float, warmup_steps: float):
        self.warmup_steps = warmup_steps  # before the parent's constructor, which takes a step
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: float | None = None) -> None:
        super().step(current_step)
        done = current_step or 0.0
        if done < self.warmup_steps:
            for group in self.optimizer.param_groups:
                group["lr"] *= 0.01 + 0.99 * done / self.warmup_steps
