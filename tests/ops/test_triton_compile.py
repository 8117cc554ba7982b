"""The Triton kernels compiled for NVIDIA architectures without a GPU: they compile, and they do not spill registers.

The backend runs on tensors of the meta device, with its launches replaced by compilation of what would be launched.
"""

import inspect
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from packaging.version import Version

from nnunetv2_mamba.ops.backends import triton as backend
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

triton = pytest.importorskip("triton", reason="triton cannot be imported")
cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
pytestmark = [
    pytest.mark.skipif(not cuobjdump.exists(), reason="this triton brings no cuobjdump"),
    pytest.mark.skipif(Version(triton.__version__) < Version("3.3"), reason="triton before 3.3 is called otherwise"),
]

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32"}
# Registers of a thread for up to 16 and up to 64 states. 128 let sixteen warps share an SM; 255 is the most there is.
REGISTERS = {"run_end_kernel": (128, 168), "run_adjoint_kernel": (128, 168), "scan_kernel": (128, 200)}
# The kernel with all gradients holds five tiles; outside its inner loops it may keep a few numbers on the stack.
STACK_BYTES = {"adjoint_kernel": 32}


@dataclass
class Usage:
    kernel: str
    registers: int
    stack_bytes: int
    shared_bytes: int


def compile_launches(
    monkeypatch: pytest.MonkeyPatch, capability: int, tmp_path: Path, backend: ModuleType, *modules: ModuleType
) -> list[Usage]:
    """Replace the backend's launches of kernels of the modules by compilation for an architecture.

    The list returned fills up with them.
    """
    usages = []
    warps = inspect.signature(backend._launch).parameters["num_warps"].default

    def compile_launch(
        name: str, grid: tuple[int, ...], *arguments: object, num_warps: int = warps, **constants: object
    ):
        module = next(module for module in modules if hasattr(module, name))
        ast = source(getattr(module, name), arguments, constants, modules[0]._GENERAL)
        compiled = triton.compile(
            ast,
            target=triton.backends.compiler.GPUTarget("cuda", capability, 32),
            options={"num_warps": num_warps, **backend._OPTIONS},
        )
        cubin = tmp_path / f"{name}.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        dump = subprocess.run([cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True)
        registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", dump.stdout + dump.stderr).groups()
        usages.append(Usage(name, int(registers), int(stack), compiled.metadata.shared))

    monkeypatch.setattr(backend, "_launch", compile_launch)
    return usages


def source(kernel, arguments: tuple, constants: dict, not_specialized: tuple[str, ...]):
    """What triton's just-in-time compiler makes of these arguments, torch's allocator aligning every tensor."""
    signature, attributes = dict.fromkeys(kernel.arg_names, "constexpr"), {}
    constants = dict(constants)
    for index, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if isinstance(value, torch.Tensor):
            signature[name] = POINTERS[value.dtype]
        elif value == 1 and name not in not_specialized:
            constants[name] = value
            continue
        else:
            signature[name] = "i32" if value < 2**31 else "i64"
        if isinstance(value, torch.Tensor) or (name not in not_specialized and value % 16 == 0):
            attributes[index,] = [["tt.divisibility", 16]]
    return triton.compiler.ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)


def scan(directions: int, length: int, channels: int, state_size: int, dtype: torch.dtype, gated: bool) -> None:
    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    d, n = channels, state_size
    rows, parameters = (2, directions, length), (directions, d)
    # As in the networks: B and C are parts of one projection behind dt, the gate is half of another.
    projected = empty(*rows, -(-d // 32) + 2 * n)
    B, C = projected[..., -2 * n : -n], projected[..., -n:]
    u = empty(*rows, d) if gated else empty(2, length, d)
    z = empty(2, length, 2 * d)[..., d:] if gated else None
    A, D, bias = (empty(*shape, dtype=torch.float32) for shape in ((*parameters, n), parameters, parameters))
    paths = empty(directions, length, dtype=torch.int32)
    scan = ScanArguments(u, empty(*rows, d), A, B, C, paths, D, bias, True, z)
    out, states = backend.scan_forward(scan)
    backend.scan_backward(torch.empty_like(out), scan, states)


def convolution(dtype: torch.dtype) -> None:
    x = torch.empty(2, 4096, 192, dtype=dtype, device="meta")[..., :96]
    weight, bias = torch.empty(3, 96, 4, device="meta"), torch.empty(3, 96, device="meta")
    paths = torch.empty(3, 4096, dtype=torch.int32, device="meta")
    out = backend.conv_forward(x, weight, bias, paths, True)
    backend.conv_backward(out, x, weight, bias, paths, True)


def check(usages: list[Usage], state_size: int) -> None:
    assert usages
    for usage in usages:
        assert usage.stack_bytes <= STACK_BYTES.get(usage.kernel, 0), usage
        if usage.kernel in REGISTERS:
            assert usage.registers <= REGISTERS[usage.kernel][state_size > 16], usage


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (90, torch.bfloat16),
        *(
            pytest.param(capability, dtype, marks=pytest.mark.slow)
            for capability in (75, 80, 90, 100, 120)
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
            if (capability, dtype) != (90, torch.bfloat16)
        ),
    ],
)
def test_no_kernel_spills(capability, dtype, monkeypatch, tmp_path):
    from nnunetv2_mamba.ops.backends import triton_kernels

    usages = compile_launches(monkeypatch, capability, tmp_path, backend, triton_kernels)
    scan(3, 32768, 192, 16, dtype, gated=True)  # SegMamba
    check(usages, 16)
    usages.clear()
    scan(8, 1728, 1024, 64, dtype, gated=False)  # MedSegMamba
    check(usages, 64)
    usages.clear()
    convolution(dtype)
    check(usages, 0)
