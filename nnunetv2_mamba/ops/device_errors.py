"""Errors of a device that say nothing of the code that met them: no memory, somebody else has it, a kernel broke it."""

import torch

from nnunetv2_mamba.text import short_reason

_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")  # CUDA, MPS; torch's CPU allocator; libc
# Of cuBLAS and cuDNN; of a device in exclusive mode; of what CUDA refuses while a graph is captured; of a cache.
_PASSING = ("ALLOC_FAILED", "busy or unavailable", "devices are busy", "stream is capturing", "No space left on device")

# Of a kernel's faults, by CUDA and by Triton: CUDA computes nothing more in the process.
_FAULTS = (
    *("illegal memory access", "misaligned address", "illegal instruction", "device-side assert"),
    *("unspecified launch failure", "launch timed out", "ECC error"),
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Say whether this is a device's or the system's way to report it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in _MEMORY)


def is_passing(error: BaseException) -> bool:
    """Say whether the same may work later: there was no memory, or the device was in use."""
    return ran_out_of_memory(error) or any(sign in str(error) for sign in _PASSING)


def ends_the_device(error: BaseException) -> bool:
    """Say whether nothing can be computed on the device any more, by this process."""
    return any(sign in str(error) for sign in _FAULTS)


class DeviceLostError(RuntimeError):
    """A kernel's fault left this process without its device; whatever stood in for the kernel would fail, too."""

    def __init__(self, device: torch.device, error: BaseException) -> None:
        super().__init__(
            f"a kernel's fault has left nothing that works on {device} in this process ({short_reason(error)}); start "
            "again with NNUNETV2_MAMBA_SCAN=torch, and please report this"
        )


class CheckPostponedError(RuntimeError):
    """A device had no room for a check of its kernels, or was in use; the next question checks again."""

    def __init__(self, device: torch.device, error: BaseException) -> None:
        super().__init__(
            f"whether kernels work on {device} cannot be found out now ({short_reason(error)}); free its memory or "
            "wait for what uses it ('nvidia-smi' lists that), then try again, or set NNUNETV2_MAMBA_SCAN=torch"
        )
