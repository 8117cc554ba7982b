"""Which backend computes the scan: by the argument, else by NNUNETV2_MAMBA_SCAN, else by device and availability."""

import os
import warnings
from functools import cache
from importlib import import_module
from types import ModuleType

import torch

from nnunetv2_mamba.ops._tracing import constant_when_traced

ENVIRONMENT_VARIABLE = "NNUNETV2_MAMBA_SCAN"

SCAN, SSD = "directional_scan", "directional_ssd"  # the operators: Mamba's scan and Mamba-2's
_BACKENDS = "nnunetv2_mamba.ops.backends"
_MODULES = {
    SCAN: {  # with the causal convolution
        "cpu": f"{_BACKENDS}.cpu",
        "triton": f"{_BACKENDS}.triton",
        "mamba_ssm": f"{_BACKENDS}.mamba_ssm",
        "torch": f"{_BACKENDS}.torch_chunked",
        "reference": "nnunetv2_mamba.ops.definition",
    },
    SSD: {
        "cpu": f"{_BACKENDS}.cpu",
        "triton": f"{_BACKENDS}.triton_ssd",
        "torch": f"{_BACKENDS}.torch_ssd",
        "reference": "nnunetv2_mamba.ops.definition",
    },
}
_OF = {SCAN: "", SSD: " of Mamba-2's scan"}
_SLOWER = {
    SCAN: "The selective scan runs in plain torch operations, more than ten times slower",
    SSD: "Mamba-2's scan runs in plain torch operations, several times slower",
}
CHOICES = ("auto", *_MODULES[SCAN])
# Made of differentiable functions; the other modules have a forward and a backward for the custom operators.
COMPOSED = ("mamba_ssm", "reference")

# The fast backend of a device type; every other device, and whatever these cannot do, is computed by `torch`.
_NATIVE = {SCAN: {"cpu": "cpu", "cuda": "triton"}, SSD: {"cpu": "cpu"}}
# Kernels that are used only when asked for by name, and why.
_BY_NAME = {
    (SSD, "cuda"): "the triton kernel of Mamba-2's scan has not run on a GPU yet and is used when asked for by name",
}
_DEVICE = {"cpu": "cpu", "triton": "cuda", "mamba_ssm": "cuda"}
_NO_FLOAT64 = ("triton", "mamba_ssm")


def load(name: str, operator: str = SCAN) -> ModuleType:
    """The module of a backend; imports it on first use."""
    return import_module(_MODULES[operator][name])


@cache
def unavailable(name: str, operator: str = SCAN) -> str | None:
    """Why a backend cannot be used on this machine, with the remedy; None if it can."""
    if name not in _MODULES[operator]:
        return f"there is no {name} kernel{_OF[operator]}; use 'auto', 'torch' or 'reference'"
    return None if name == "reference" else load(name, operator).available()


def choose_backend(
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    operator: str = SCAN,
) -> tuple[str, str]:
    """Choose the backend for tensors on `device`.

    Args:
        device: Where the tensors are.
        dtype: What the scan computes in: torch.float32 (also for fp16 and bf16 inputs) or torch.float64.
        backend: One of `CHOICES`; None reads the environment variable NNUNETV2_MAMBA_SCAN, "auto" when that is unset.
        operator: "directional_scan", or "directional_ssd" for Mamba-2's.

    Returns:
        The backend's name and the reason for it, a sentence to show a user.

    Raises:
        ValueError: The name is not one of `CHOICES`.
        RuntimeError: The backend was asked for by name and cannot be used here; the message says what to do.

    Example:

        >>> from nnunetv2_mamba.ops.backend_selection import choose_backend
        >>> choose_backend("cpu", backend="torch")
        ('torch', 'asked for by the argument backend')
    """
    return _choose(torch.device(device), dtype, backend, operator)[:2]


@constant_when_traced
def resolve(device: torch.device, dtype: torch.dtype, backend: str | None, operator: str = SCAN) -> str:
    """The name from `choose_backend`, with one warning per process when `torch` stands in for a missing kernel."""
    name, reason, stands_in = _choose(device, dtype, backend, operator)
    if stands_in:
        _warn_once(f"{_SLOWER[operator]}: {reason}")
    return name


def _choose(device: torch.device, dtype: torch.dtype, backend: str | None, operator: str) -> tuple[str, str, bool]:
    """Name, reason, and whether `torch` stands in for a kernel that this machine could have."""
    source = "the argument backend"
    if backend is None:
        backend, source = os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE
    if backend not in CHOICES:
        raise ValueError(f"{source} must be one of {', '.join(CHOICES)}, got {backend!r}")
    if backend != "auto":
        _require(backend, device, dtype, source, operator)
        return backend, f"asked for by {source}", False

    native = _NATIVE[operator].get(device.type)
    if native is None:
        no_kernel = f"there is no kernel{_OF[operator]} for {device.type} devices"
        return "torch", _BY_NAME.get((operator, device.type), no_kernel), False
    if dtype == torch.float64 and native in _NO_FLOAT64:
        return "torch", f"the {native} kernel computes in fp32 and the tensors are fp64", False
    if (reason := unavailable(native, operator)) is not None:
        return "torch", f"the {native} kernel cannot be used: {reason}", True
    return native, f"the kernel for {device.type} devices", False


def _require(name: str, device: torch.device, dtype: torch.dtype, source: str, operator: str) -> None:
    only = _DEVICE.get(name, device.type)
    if name not in _MODULES[operator]:
        problem = unavailable(name, operator)
    elif device.type != only:
        problem = f"it is for {only} tensors and was given {device.type} tensors; use 'auto', 'torch' or 'reference'"
    elif dtype == torch.float64 and name in _NO_FLOAT64:
        problem = "it computes in fp32 and was given fp64 tensors; use 'auto', 'torch' or 'reference'"
    else:
        problem = unavailable(name, operator)
    if problem is not None:
        raise RuntimeError(f"The scan backend {name!r}, asked for by {source}, cannot be used: {problem}")


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
