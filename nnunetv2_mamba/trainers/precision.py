"""Mixed precision: which type the networks compute in, chosen by ``NNUNETV2_MAMBA_AMP``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

AMP_VARIABLE = "NNUNETV2_MAMBA_AMP"
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "none": None}
_AMP_DEVICES = ("cuda", "cpu")


class Precision:
    """Autocast and loss scaling of a training.

    Without ``NNUNETV2_MAMBA_AMP`` as nnU-Net: fp16 with a scaled loss on CUDA, fp32 elsewhere. The variable may say
    ``fp16``, ``bf16`` (no scaling: it has the range of fp32) or ``none``. On CUDA nnU-Net's own validation and
    prediction in the training process follow it (``as_default``); on a CPU they stay in fp32. Nothing outside these
    contexts is changed: other trainers and autocasts of the process keep their types.

    The scan, the losses and the norms compute in fp32 under every choice.

    Attributes:
        name: ``"fp16"``, ``"bf16"`` or ``"none"``.
        dtype: autocast's type; None without autocast.

    Raises:
        ValueError: for another value of the variable, or a device that cannot do it.
    """

    def __init__(self, device: torch.device):
        self.device_type = device.type
        chosen = os.environ.get(AMP_VARIABLE, "").strip().lower()
        self.name = chosen or ("fp16" if device.type == "cuda" else "none")
        if self.name not in _DTYPES:
            raise ValueError(f"{AMP_VARIABLE}={chosen!r}; it must be one of {', '.join(_DTYPES)}, or unset")
        self.dtype = _DTYPES[self.name]
        if self.dtype is not None and device.type not in _AMP_DEVICES:
            raise ValueError(f"{AMP_VARIABLE}={chosen!r} needs one of the devices {', '.join(_AMP_DEVICES)}; unset it")
        on_cuda = device.type == "cuda"
        if on_cuda and self.dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ValueError(f"{AMP_VARIABLE}=bf16, which this GPU does not compute in; use fp16 or none")

    def autocast(self) -> AbstractContextManager:
        """Return the context for a forward pass with its loss."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device_type, self.dtype)

    @contextmanager
    def as_default(self) -> Iterator[None]:
        """Be the context for nnU-Net's own steps, whose autocast names no type: on CUDA its default is this one."""
        if self.device_type != "cuda":
            yield
            return
        before = torch.get_autocast_dtype(self.device_type)
        torch.set_autocast_dtype(self.device_type, self.dtype or torch.float32)
        try:
            yield
        finally:
            torch.set_autocast_dtype(self.device_type, before)

    def grad_scaler(self) -> torch.amp.GradScaler | None:
        """Return a fresh loss scaler, where the type needs one."""
        return torch.amp.GradScaler(self.device_type) if self.dtype is torch.float16 else None

    def check_convolutions(self, network: nn.Module) -> None:
        """Let 3D convolutions raise a ``RuntimeError`` where torch would train them with wrong gradients.

        On CPUs, in bf16 and on grids with fewer slices than the kernel, but more than one, the weight gradient of
        torch's convolution (oneDNN 3.13, kernel ``jit_bf16``) holds whatever was in memory before.
        """
        if self.device_type == "cpu" and self.dtype is torch.bfloat16:
            for module in network.modules():
                if isinstance(module, nn.Conv3d):
                    module.register_forward_pre_hook(_refuse_few_slices)


def _refuse_few_slices(convolution: nn.Conv3d, args: tuple[Any, ...]) -> None:
    slices, kernel = args[0].shape[2], convolution.kernel_size[0]
    if torch.is_grad_enabled() and 1 < slices < kernel:
        raise RuntimeError(
            f"{AMP_VARIABLE}=bf16 on a CPU: torch's bf16 convolution has wrong weight gradients where the patch is "
            f"down to {slices} slices and the kernel has {kernel}; use {AMP_VARIABLE}=none, or a larger patch"
        )
