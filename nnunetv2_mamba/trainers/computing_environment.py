"""What a training is computed with: enough to trace a result to the kernel that made it."""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_mamba.architectures.blocks.state_space import dtypes_of_operators
from nnunetv2_mamba.ops.backend_selection import OPERATORS, choose
from nnunetv2_mamba.versions import installed_version

from .precision import Precision

ComputingEnvironment = dict[str, str | bool]

# What the entries are called. Checkpoints from before the others had one of Mamba's scan alone, under its present name.
_NAMES = {"directional_scan": "scan", "directional_ssd": "ssd", "causal_conv1d": "convolution"}


def computing_environment(
    device: torch.device, precision: Precision, network: nn.Module, compiled: bool
) -> ComputingEnvironment:
    """Return plain values, which a checkpoint can hold and ``torch.load(weights_only=True)`` reads.

    Args:
        precision: that of the training; kernels are chosen, and checked, for what the layers compute in under it.
        network: not wrapped; operators that it has not, as a control has no scan, have no backend.
        compiled: whether it runs through ``torch.compile``.

    Raises:
        RuntimeError: for a backend that is asked for and cannot be used here, or a device that is in use.
    """
    used = dtypes_of_operators(network, precision.dtype or torch.float32)
    backends = {}
    for operator in OPERATORS:
        chosen = ("none", "none")
        if operator in used:
            chosen = choose(device, tuple(used[operator]), operator=operator)[:2]
        backends[_NAMES[operator]], backends[f"{_NAMES[operator]}_reason"] = chosen
    return {
        "torch": str(torch.__version__),  # a class of torch's own
        "nnunetv2": installed_version("nnunetv2"),
        "nnunetv2_mamba": installed_version("nnunetv2-mamba"),
        "device": _device_name(device),
        **backends,
        "mixed_precision": precision.name,
        "compiled": compiled,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
