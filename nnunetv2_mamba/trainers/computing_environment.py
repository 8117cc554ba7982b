"""What a training is computed with: enough to trace a result to the kernel that made it."""

from __future__ import annotations

import torch
from torch import nn

from nnunetv2_mamba.architectures.blocks.state_space import StateSpaceModel
from nnunetv2_mamba.ops.backend_selection import choose_backend
from nnunetv2_mamba.versions import installed_version

ComputingEnvironment = dict[str, str | bool]


def computing_environment(
    device: torch.device, mixed_precision: str, network: nn.Module, compiled: bool
) -> ComputingEnvironment:
    """Return plain values, which a checkpoint can hold and ``torch.load(weights_only=True)`` reads.

    Args:
        mixed_precision: ``"fp16"``, ``"bf16"`` or ``"none"``.
        network: not wrapped; one without a selective scan, such as a control, has no backend of it.
        compiled: whether it runs through ``torch.compile``.

    Raises:
        RuntimeError: for a backend of the scan that is asked for and cannot be used here.
    """
    backend = reason = "none"
    if any(isinstance(module, StateSpaceModel) for module in network.modules()):
        backend, reason = choose_backend(device)
    return {
        "torch": str(torch.__version__),  # a class of torch's own
        "nnunetv2": installed_version("nnunetv2"),
        "nnunetv2_mamba": installed_version("nnunetv2-mamba"),
        "device": _device_name(device),
        "scan": backend,
        "scan_reason": reason,
        "mixed_precision": mixed_precision,
        "compiled": compiled,
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type
