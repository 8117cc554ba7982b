"""The Triton kernels compiled for NVIDIA architectures without a GPU: they compile, and they do not spill registers."""

import threading
from functools import partial

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton cannot be imported")
pytest.importorskip("triton.backends.nvidia", reason="this triton is not for NVIDIA GPUs")
from offline_gpu import CAPABILITIES, CUOBJDUMP, Usage, compiling_for, usage_of, use_convolution, use_scan  # noqa: E402
from triton.compiler.errors import CompilationError  # noqa: E402

from nnunetv2_mamba.ops.backends import triton as backend  # noqa: E402
from nnunetv2_mamba.ops.backends import triton_launch  # noqa: E402
from nnunetv2_mamba.ops.backends.triton_launch import compile_ahead, kind_of, of_kind  # noqa: E402

needs_cuobjdump = pytest.mark.skipif(not CUOBJDUMP.exists(), reason="this triton brings no cuobjdump")
# Registers of a thread for up to 16 and up to 64 states. 128 let sixteen warps share an SM; 255 is the most there is.
REGISTERS = {"run_end_kernel": (128, 168), "run_adjoint_kernel": (128, 168), "scan_kernel": (128, 200)}
# The kernel with all gradients holds five tiles; outside its inner loops it may keep a few numbers on the stack.
STACK_BYTES = {"adjoint_kernel": 32}


def check(usages: list[Usage], state_size: int) -> None:
    assert usages
    for usage in usages:
        assert usage.stack_bytes <= STACK_BYTES.get(usage.kernel, 0), usage
        if usage.kernel in REGISTERS:
            assert usage.registers <= REGISTERS[usage.kernel][state_size > 16], usage


@needs_cuobjdump
@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        (90, torch.bfloat16),
        *(
            pytest.param(capability, dtype, marks=pytest.mark.slow)
            for capability in CAPABILITIES
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
            if (capability, dtype) != (90, torch.bfloat16)
        ),
    ],
)
def test_no_kernel_spills(capability, dtype):
    uses = {
        16: lambda launch: use_scan(launch, 3, 32768, 192, 16, dtype, gated=True),  # SegMamba
        64: lambda launch: use_scan(launch, 8, 1728, 1024, 64, dtype, gated=False),  # MedSegMamba
        0: lambda launch: use_convolution(launch, dtype),
    }
    with compiling_for(capability):
        for state_size, use in uses.items():
            check([usage_of(kernel) for kernel in compile_ahead(use)], state_size)


def test_a_training_compiles_every_kernel_once():
    """Every level of SegMamba launches the same programs, wherever its B and C lie; so do other lengths of a path."""

    def use(launch):
        for length, channels in ((32768, 96), (4096, 192), (512, 384), (64, 768), (63, 96)):
            use_scan(launch, 3, length, channels, 16, torch.float16, gated=True)

    with compiling_for(90):
        kernels = compile_ahead(use)
    names = [kernel.metadata.name for kernel in {id(kernel): kernel for kernel in kernels}.values()]
    assert sorted(names) == [
        *("adjoint_kernel", "carry_kernel", "gate_backward_kernel", "gate_kernel", "gate_kernel"),
        *("run_adjoint_kernel", "run_end_kernel", "scan_kernel"),
    ]


@pytest.mark.parametrize("forward_only", [False, True])
def test_what_is_compiled_ahead_is_what_is_launched(forward_only, monkeypatch):
    compiled = []
    monkeypatch.setattr(triton_launch, "compile_ahead", lambda use, device: compiled.extend(compile_ahead(use)))
    kinds = []
    monkeypatch.setattr(backend, "_ScanLaunches", record_kinds(backend._ScanLaunches, kinds))
    use = partial(use_scan, directions=2, length=320, channels=16, state_size=8, dtype=torch.float16, gated=True)
    with compiling_for(80):
        launched = compile_ahead(use)
        compile_kind = triton_launch.compile_scan.__wrapped__
        compile_kind(backend.scan_forward, backend.scan_backward, kinds[0], forward_only, None)
    assert {id(kernel) for kernel in compiled} <= {id(kernel) for kernel in launched}
    names = {kernel.metadata.name for kernel in compiled}
    assert ("adjoint_kernel" in names) != forward_only and "scan_kernel" in names
    assert forward_only or len(compiled) == len(launched)


def record_kinds(launches, kinds: list):
    def record(scan, launch):
        kinds.append(kind_of(scan))
        return launches(scan, launch)

    return record


def test_a_kind_has_shapes_strides_and_dtypes():
    half = torch.empty(2, 3, 8, dtype=torch.float16)[..., 4:]
    tensor, *others = of_kind(kind_of((half, None, True)))
    assert (tensor.shape, tensor.stride(), tensor.dtype, tensor.is_meta) == (half.shape, (24, 8, 1), half.dtype, True)
    assert others == [None, True]
    assert hash(kind_of((half,))) == hash(kind_of((tensor,)))


@pytest.mark.parametrize("wrapped", [False, True], ids=["as it is", "as Triton's own error"])
def test_threads_that_python_cannot_let_parse_at_a_time(wrapped, monkeypatch):
    def compiled(arguments, options):
        if threading.current_thread() is not threading.main_thread():
            error = SystemError("AST constructor recursion depth mismatch (before=51, after=89)")
            if wrapped:
                raise CompilationError(None, None, "at 7:17") from error
            raise error
        return arguments[1]

    monkeypatch.setattr(triton_launch, "_compiled", compiled)
    assert compile_ahead(lambda launch: [launch("file", name, (1,), num_warps=1) for name in "aba"]) == ["a", "b", "a"]


def test_what_is_wrong_with_a_kernel_is_raised(monkeypatch):
    def compiled(arguments, options):
        raise CompilationError(None, None, f"wrong in {arguments[1]}")

    monkeypatch.setattr(triton_launch, "_compiled", compiled)
    with pytest.raises(CompilationError, match="wrong in a"):
        compile_ahead(lambda launch: [launch("file", name, (1,), num_warps=1) for name in "ab"])
