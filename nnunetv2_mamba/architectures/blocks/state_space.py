"""What every state-space model here has in common."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import nn


class RunsOperators:
    """A module that calls operators of ``nnunetv2_mamba.ops`` itself, whose backends are chosen by device.

    Attributes:
        operators: their names, as ``nnunetv2_mamba.ops.backend_selection`` has them.
    """

    operators: ClassVar[tuple[str, ...]]


def operators_of(network: nn.Module) -> set[str]:
    """The names of the operators that a network's modules call."""
    runners = (module for module in network.modules() if isinstance(module, RunsOperators))
    return {name for module in runners for name in module.operators}


@torch.no_grad()
def initial_step_bias(bias: torch.Tensor) -> torch.Tensor:
    """Draw ``bias`` such that softplus makes steps of it between 0.001 and 0.1, evenly by ratio (mamba_ssm's)."""
    step = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
    return bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
