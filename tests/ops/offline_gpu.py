"""Triton without a GPU: kernels compiled for an NVIDIA architecture by Triton's own way from a call to a program."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import triton
from triton.backends.compiler import GPUTarget

from nnunetv2_mamba.ops.backends import triton as scan_backend
from nnunetv2_mamba.ops.backends import triton_ssd as ssd_backend
from nnunetv2_mamba.ops.backends.triton_launch import Launch
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
CAPABILITIES = (75, 80, 90, 100, 120)


class OfflineDriver:
    """What Triton asks its driver for on the way to a compiled kernel."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # a device of its own, as Triton keeps a kernel's programs by device

    def get_current_stream(self, device: int | None = None) -> int:
        return 0


@contextmanager
def compiling_for(capability: int) -> Iterator[None]:
    """Let Triton compile for a compute capability, 90 for 9.0, as long as no kernel is run."""
    driver, before = triton.runtime.driver, dict(vars(triton.runtime.driver))
    driver.set_active(OfflineDriver(capability))
    try:
        yield
    finally:
        vars(driver).clear()
        vars(driver).update(before)


@dataclass
class Usage:
    kernel: str
    registers: int
    stack_bytes: int
    shared_bytes: int


def usage_of(compiled) -> Usage:
    """What a program of Triton's uses, by NVIDIA's tool that comes with Triton."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "program.cubin"
        file.write_bytes(compiled.asm["cubin"])
        dump = subprocess.run([CUOBJDUMP, "-res-usage", file], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", dump.stdout + dump.stderr).groups()
    return Usage(compiled.metadata.name, int(registers), int(stack), compiled.metadata.shared)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def use_scan(
    launch: Launch, directions: int, length: int, channels: int, state_size: int, dtype: torch.dtype, gated: bool
) -> None:
    """The scan and its gradients as the networks call them: SegMamba gated, MedSegMamba not."""
    d, n = channels, state_size
    rows, parameters = (2, directions, length), (directions, d)
    # B and C are parts of one projection behind dt, the gate is half of another.
    projected = empty(*rows, -(-d // 32) + 2 * n, dtype=dtype)
    B, C = projected[..., -2 * n : -n], projected[..., -n:]
    u = empty(*rows, d, dtype=dtype) if gated else empty(2, length, d, dtype=dtype)
    z = empty(2, length, 2 * d, dtype=dtype)[..., d:] if gated else None
    A, D, bias = (empty(*shape, dtype=torch.float32) for shape in ((*parameters, n), parameters, parameters))
    paths = empty(directions, length, dtype=torch.int32)
    scan = ScanArguments(u, empty(*rows, d, dtype=dtype), A, B, C, paths, D, bias, True, z)
    out, states = scan_backend.scan_forward(scan, launch)
    scan_backend.scan_backward(torch.empty_like(out), scan, states, launch)


def use_convolution(launch: Launch, dtype: torch.dtype) -> None:
    x = empty(2, 4096, 192, dtype=dtype)[..., :96]
    weight, bias = empty(3, 96, 4, dtype=torch.float32), empty(3, 96, dtype=torch.float32)
    paths = empty(3, 4096, dtype=torch.int32)
    out = scan_backend.conv_forward(x, weight, bias, paths, True, launch)
    scan_backend.conv_backward(out, x, weight, bias, paths, True, launch)


def use_ssd(
    launch: Launch, directions: int, heads: int, head_size: int, state_size: int, dtype: torch.dtype, shared: bool
) -> None:
    """Mamba-2's scan with B and C as the networks give them: parts of one projection, as u is where its own."""
    length, d, n = 4096, heads * head_size, state_size
    projected = empty(2, directions, length, d + 2 * n, dtype=dtype)
    B, C = (part.unflatten(-1, (1, n)) for part in (projected[..., d : d + n], projected[..., d + n :]))
    u = empty(2, length, d, dtype=dtype) if shared else projected[..., :d]
    z = None if shared else empty(2, length, 2 * d, dtype=dtype)[..., d:]
    A, D, bias = (empty(directions, heads, dtype=torch.float32) for _ in range(3))
    paths = empty(directions, length, dtype=torch.int32)
    delta = empty(2, directions, length, heads, dtype=dtype)
    arguments = ScanArguments(u, delta, A, B, C, paths, D, bias, True, z)
    out, states = ssd_backend.scan_forward(arguments, launch)
    ssd_backend.scan_backward(torch.empty_like(out), arguments, states, launch)
