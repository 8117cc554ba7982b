"""The line that says what computes in a container, and what can be read from it again."""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_mamba.architectures.blocks.state_space import dtypes_of_operators
from nnunetv2_mamba.ops.backend_selection import choose

from .tile_predictor import DTYPES

START = "on "


def device_line(device: str, network: nn.Module, precision: str) -> str:
    """The device and, of the operators that the network has, the backends: ``on the CPU, directional_scan by cpu``.

    Args:
        device: ``cuda`` or ``cpu``.
        precision: one of ``inference_settings.PRECISIONS``.
    """
    name = torch.cuda.get_device_name() if device == "cuda" else "the CPU"
    dtype = DTYPES.get(precision, torch.float16 if device == "cuda" else torch.float32)
    used = sorted(dtypes_of_operators(network, dtype).items())
    backends = [f"{operator} by {_backend(operator, device, tuple(dtypes))}" for operator, dtypes in used]
    return START + ", ".join([name, *backends])


def _backend(operator: str, device: str, dtypes: tuple[torch.dtype, ...]) -> str:
    try:
        return choose(device, dtypes, operator=operator).name
    except RuntimeError:  # a device without room for the check of a kernel; the first case may find some
        return "a backend not chosen yet"
