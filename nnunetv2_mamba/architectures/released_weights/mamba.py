"""mamba_ssm's key names to ours."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .state import State, shape_of


def stack_directions(state: State, prefix: str, suffixes: Sequence[str] = ("",)) -> None:
    """Replace the tensors of a Mamba module by DirectionalMamba's, which have a direction axis.

    Args:
        prefix: of the module's keys, with the dot at the end.
        suffixes: of the names of each direction's tensors; the default is the official block with its one direction.

    Raises:
        ValueError: if a tensor is missing.
    """
    stacked = {
        "conv_weight": "conv1d{}.weight",
        "conv_bias": "conv1d{}.bias",
        "ssm.x_proj_weight": "x_proj{}.weight",
        "ssm.dt_proj_weight": "dt_proj{}.weight",
        "ssm.dt_proj_bias": "dt_proj{}.bias",
        "ssm.A_log": "A{}_log",
        "ssm.D": "D{}",
    }
    for ours, theirs in stacked.items():
        keys = [prefix + theirs.format(suffix) for suffix in suffixes]
        for key in keys:
            shape_of(state, key)
        tensors = [state.pop(key) for key in keys]
        if ours == "conv_weight":
            tensors = [tensor.squeeze(1) for tensor in tensors]
        state[prefix + ours] = torch.stack(tensors)
