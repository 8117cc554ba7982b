"""Which backend computes an operator: by the argument, else by NNUNETV2_MAMBA_SCAN, else by device and availability."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch

from nnunetv2_mamba.ops._tracing import constant_when_traced

ENVIRONMENT_VARIABLE = "NNUNETV2_MAMBA_SCAN"

SCAN, SSD, CONVOLUTION = "directional_scan", "directional_ssd", "causal_conv1d"
_HERE = "nnunetv2_mamba.ops.backends"


@dataclass(frozen=True)
class _Operator:
    """What an operator is called in messages.

    Attributes:
        of: What follows "kernel".
        slower: What plain torch operations mean for it.
        left_to_auto: Backends that know nothing of it and leave it to the automatic choice.
    """

    of: str
    slower: str
    left_to_auto: tuple[str, ...] = ()


OPERATORS = {
    SCAN: _Operator("", "The selective scan runs in plain torch operations, more than ten times slower"),
    SSD: _Operator(" of Mamba-2's scan", "Mamba-2's scan runs in plain torch operations, several times slower"),
    CONVOLUTION: _Operator(
        " of the causal convolution", "The causal convolution runs in plain torch operations, slower", ("mamba_ssm",)
    ),
}


@dataclass(frozen=True)
class _Backend:
    """An implementation of operators.

    Attributes:
        modules: The module of each operator that it computes.
        device: The type of the devices that it is for, None for all. "auto" takes the first one of a tensor's device,
            whatever it cannot do is computed by `torch`.
        float64: Whether it computes in fp64.
        composed: Made of differentiable functions; the others have a forward and a backward for the custom operators.
        requirements: The module whose `available(device)` says what is missing on this machine.
        self_checked: Whether it is compared with plain torch before it is used.
        by_name: Operators that it computes only when asked for by name, and why.
        on_rocm: Why it is used on AMD's GPUs only when asked for by name; they are of type cuda, too.
    """

    modules: Mapping[str, str]
    device: str | None = None
    float64: bool = True
    composed: bool = False
    requirements: str | None = None
    self_checked: bool = False
    by_name: Mapping[str, str] = field(default_factory=dict)
    on_rocm: str | None = None


BACKENDS = {
    "cpu": _Backend(dict.fromkeys(OPERATORS, f"{_HERE}.cpu"), device="cpu", requirements=f"{_HERE}.cpu_library"),
    "triton": _Backend(
        {SCAN: f"{_HERE}.triton", SSD: f"{_HERE}.triton_ssd", CONVOLUTION: f"{_HERE}.triton"},
        device="cuda",
        float64=False,
        requirements=f"{_HERE}.triton_devices",
        self_checked=True,
        by_name={
            SSD: "the triton kernel of Mamba-2's scan has not run on a GPU yet and is used when asked for by name"
        },
        on_rocm="the triton kernels have not run on an AMD GPU (ROCm) yet and are used when asked for by name",
    ),
    "mamba_ssm": _Backend(
        {SCAN: f"{_HERE}.mamba_ssm"},
        device="cuda",
        float64=False,
        composed=True,
        requirements=f"{_HERE}.mamba_ssm",
    ),
    "torch": _Backend(
        {SCAN: f"{_HERE}.torch_chunked", SSD: f"{_HERE}.torch_ssd", CONVOLUTION: f"{_HERE}.torch_chunked"}
    ),
    "reference": _Backend(dict.fromkeys(OPERATORS, "nnunetv2_mamba.ops.definition"), composed=True),
}
CHOICES = ("auto", *BACKENDS)


class Choice(NamedTuple):
    """A backend, the reason for it, and whether plain torch stands in for a kernel that this machine could have."""

    name: str
    reason: str
    stands_in: bool


def load(name: str, operator: str = SCAN) -> ModuleType:
    """The module of a backend; imports it on first use."""
    return import_module(BACKENDS[name].modules[operator])


@cache
def unavailable(
    name: str, operator: str = SCAN, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> str | None:
    """Why a backend cannot be used on this machine, with the remedy; None if it can.

    Kernels that are checked are checked for `device` (None: the current one) and for inputs of `dtype`.

    Raises:
        CheckPostponedError: The device has no memory, or is in use, so that nothing is known; nothing is remembered.
        DeviceLostError: A kernel's check, or what ran before, ended the device for this process.
    """
    backend = BACKENDS[name]
    if operator not in backend.modules:
        return f"there is no {name} kernel{OPERATORS[operator].of}; use 'auto', 'torch' or 'reference'"
    if backend.requirements is None:
        return None
    device = _with_index(torch.device(backend.device) if device is None else device)
    reason = import_module(backend.requirements).available(device)
    if reason is None and backend.self_checked:
        check = import_module(f"{_HERE}.self_check")
        reason = check.disagreement(operator, load(name, operator), device, dtype)
    return reason


def choose_backend(
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    backend: str | None = None,
    operator: str = SCAN,
) -> tuple[str, str]:
    """Choose the backend for tensors on `device`.

    Args:
        device: Where the tensors are.
        dtype: Of the tensors that a network gives in its own precision: torch.float16, bfloat16, float32 or float64.
        backend: One of `CHOICES`; None reads the environment variable NNUNETV2_MAMBA_SCAN, "auto" when that is unset.
        operator: "directional_scan", "directional_ssd" for Mamba-2's, or "causal_conv1d".

    Returns:
        The backend's name and the reason for it, a sentence to show a user.

    Raises:
        ValueError: The name is not one of `CHOICES`.
        RuntimeError: The backend was asked for by name and cannot be used here, the device has no room for the check of
            a kernel, or does not work after it; the message says what to do.

    Example:

        >>> from nnunetv2_mamba.ops.backend_selection import choose_backend
        >>> choose_backend("cpu", backend="torch")
        ('torch', 'asked for by the argument backend')
    """
    return choose(device, (dtype,), backend, operator)[:2]


@constant_when_traced
def resolve(device: torch.device, dtypes: tuple[torch.dtype, ...], backend: str | None, operator: str = SCAN) -> str:
    """The name from `choose`, with one warning per process when `torch` stands in for a missing kernel."""
    name, reason, stands_in = choose(device, dtypes, backend, operator)
    if stands_in:
        _warn_once(f"{OPERATORS[operator].slower}: {reason}")
    return name


def choose(
    device: torch.device | str, dtypes: tuple[torch.dtype, ...], backend: str | None = None, operator: str = SCAN
) -> Choice:
    """As `choose_backend`, for tensors of several dtypes."""
    device, source = torch.device(device), "the argument backend"
    if backend is None:
        backend, source = os.environ.get(ENVIRONMENT_VARIABLE) or "auto", ENVIRONMENT_VARIABLE
    if backend not in CHOICES:
        raise ValueError(f"{source} must be one of {', '.join(CHOICES)}, got {backend!r}")
    if backend != "auto" and backend not in OPERATORS[operator].left_to_auto:
        _require(backend, device, dtypes, source, operator)
        return Choice(backend, f"asked for by {source}", False)

    native = _native(device.type, operator)
    if native is None:
        return Choice("torch", f"there is no kernel{OPERATORS[operator].of} for {device.type} devices", False)
    if operator in BACKENDS[native].by_name:
        return Choice("torch", BACKENDS[native].by_name[operator], False)
    if torch.float64 in dtypes and not BACKENDS[native].float64:
        return Choice("torch", f"the {native} kernel computes in fp32 and the tensors are fp64", False)
    if device.type == "cuda" and torch.version.hip is not None and BACKENDS[native].on_rocm is not None:
        return Choice("torch", BACKENDS[native].on_rocm, True)
    if (reason := _unavailable_for(native, operator, device, dtypes)) is not None:
        return Choice("torch", f"the {native} kernel cannot be used: {reason}", True)
    return Choice(native, f"the kernel for {device.type} devices", False)


def _native(device_type: str, operator: str) -> str | None:
    for name, backend in BACKENDS.items():
        if backend.device == device_type and operator in backend.modules:
            return name
    return None


def _require(name: str, device: torch.device, dtypes: tuple[torch.dtype, ...], source: str, operator: str) -> None:
    backend = BACKENDS[name]
    known = operator in backend.modules  # if not, that is the reason
    if known and backend.device not in (None, device.type):
        problem = (
            f"it is for {backend.device} tensors and was given {device.type} tensors; use 'auto', 'torch' or "
            "'reference'"
        )
    elif known and torch.float64 in dtypes and not backend.float64:
        problem = "it computes in fp32 and was given fp64 tensors; use 'auto', 'torch' or 'reference'"
    else:
        problem = _unavailable_for(name, operator, device, dtypes)
    if problem is not None:
        raise RuntimeError(f"The scan backend {name!r}, asked for by {source}, cannot be used: {problem}")


def _unavailable_for(name: str, operator: str, device: torch.device, dtypes: tuple[torch.dtype, ...]) -> str | None:
    device = _with_index(device)
    reasons = (unavailable(name, operator, device, dtype) for dtype in dict.fromkeys(dtypes))
    return next(filter(None, reasons), None)


def _with_index(device: torch.device) -> torch.device:
    """Of several GPUs the one that is meant: they may differ."""
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
