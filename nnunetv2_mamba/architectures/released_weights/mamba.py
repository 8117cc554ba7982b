"""mamba_ssm's key names to ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from .state import State, shape_of

# Tensors of our blocks, which have a direction axis, and mamba_ssm's names for those of one direction.
MAMBA = {
    "conv_weight": "conv1d{}.weight",
    "conv_bias": "conv1d{}.bias",
    "ssm.x_proj_weight": "x_proj{}.weight",
    "ssm.dt_proj_weight": "dt_proj{}.weight",
    "ssm.dt_proj_bias": "dt_proj{}.bias",
    "ssm.A_log": "A{}_log",
    "ssm.D": "D{}",
}
MAMBA2 = {
    "conv_weight": "conv1d{}.weight",
    "conv_bias": "conv1d{}.bias",
    "ssd.dt_bias": "dt_bias{}",
    "ssd.A_log": "A{}_log",
    "ssd.D": "D{}",
}


def stack_directions(
    state: State, prefix: str, suffixes: Sequence[str] = ("",), names: Mapping[str, str] = MAMBA
) -> None:
    """Replace the tensors of a Mamba module by those of our block, which have a direction axis.

    Args:
        prefix: of the module's keys, with the dot at the end.
        suffixes: of the names of each direction's tensors; the default is the official block with its one direction.
        names: ``MAMBA`` or ``MAMBA2``.

    Raises:
        ValueError: if a tensor is missing, its convolution's is none of one dimension, or the directions' differ in
            shape.
    """
    for ours, theirs in names.items():
        keys = [prefix + theirs.format(suffix) for suffix in suffixes]
        for key in keys:
            shape = shape_of(state, key, *([3] if ours == "conv_weight" else []))
            if shape != state[keys[0]].shape:
                raise ValueError(f"{key} has shape {tuple(shape)}, but {keys[0]} {tuple(state[keys[0]].shape)}")
        tensors = [state.pop(key) for key in keys]
        if ours == "conv_weight":
            tensors = [tensor.squeeze(1) for tensor in tensors]
        state[prefix + ours] = torch.stack(tensors)
