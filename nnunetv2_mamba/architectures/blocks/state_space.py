"""What every state-space model here has in common."""

from __future__ import annotations

import math

import torch
from torch import nn


class StateSpaceModel(nn.Module):
    """A module that runs a scan of ``nnunetv2_mamba.ops``, whose backend is chosen by device."""


@torch.no_grad()
def initial_step_bias(bias: torch.Tensor) -> torch.Tensor:
    """Draw ``bias`` such that softplus makes steps of it between 0.001 and 0.1, evenly by ratio (mamba_ssm's)."""
    step = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp_().clamp_(min=1e-4)
    return bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
