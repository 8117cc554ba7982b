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


class ComputesInFP32:
    """A module that switches autocast off: what is in it computes in fp32, whatever the precision of the network."""


def operators_of(network: nn.Module) -> set[str]:
    """The names of the operators that a network's modules call."""
    return set(dtypes_of_operators(network, torch.float32))


def dtypes_of_operators(network: nn.Module, dtype: torch.dtype) -> dict[str, set[torch.dtype]]:
    """The operators that a network's modules call, by name, with the types that each computes in.

    Args:
        dtype: of the network's own tensors, as autocast has it.
    """
    if isinstance(network, ComputesInFP32):
        dtype = torch.float32
    found = {name: {dtype} for name in network.operators} if isinstance(network, RunsOperators) else {}
    for child in network.children():
        for name, dtypes in dtypes_of_operators(child, dtype).items():
            found.setdefault(name, set()).update(dtypes)
    return found


@torch.no_grad()
def initial_step_bias(bias: torch.Tensor) -> torch.Tensor:
    """Draw ``bias`` such that softplus makes steps of it between 0.001 and 0.1, evenly by ratio (mamba_ssm's)."""
    step = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
    return bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
