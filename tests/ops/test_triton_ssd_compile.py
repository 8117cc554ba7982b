"""Mamba-2's Triton kernels compiled as `test_triton_compile.py` compiles those of the first scan."""

import pytest
import torch
from test_triton_compile import Usage, compile_launches, pytestmark  # noqa: F401

from nnunetv2_mamba.ops.backends import triton_ssd as backend
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

SHARED_MEMORY = 48 * 1024  # bytes of a program, which every GPU has
STACK_BYTES = 48  # the kernel of the token gradients leaves up to twelve numbers there (sm_75, sm_120)


def scan(directions: int, heads: int, head_size: int, state_size: int, dtype: torch.dtype, shared: bool) -> None:
    """Forward and backward with B and C as the networks give them: parts of one projection, as u is where its own."""

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    length, d, n = 4096, heads * head_size, state_size
    projected = empty(2, directions, length, d + 2 * n)
    B, C = (part.unflatten(-1, (1, n)) for part in (projected[..., d : d + n], projected[..., d + n :]))
    u = empty(2, length, d) if shared else projected[..., :d]
    z = None if shared else empty(2, length, 2 * d)[..., d:]
    A, D, bias = (empty(directions, heads, dtype=torch.float32) for _ in range(3))
    paths = empty(directions, length, dtype=torch.int32)
    arguments = ScanArguments(u, empty(2, directions, length, heads), A, B, C, paths, D, bias, True, z)
    out, states = backend.scan_forward(arguments)
    backend.scan_backward(torch.empty_like(out), arguments, states)


def check(usages: list[Usage]) -> None:
    assert {usage.kernel for usage in usages} >= {
        "chunk_kernel", "carry_kernel", "output_kernel", "token_gradient_kernel", "weight_gradient_kernel",
    }  # fmt: skip
    for usage in usages:
        print(usage)
        assert usage.stack_bytes <= STACK_BYTES, usage
        assert usage.shared_bytes <= SHARED_MEMORY, usage


NETWORKS = (3, 8, 24, 16, False)
UMAMBA2 = (1, 8, 80, 32, False)
LARGE = (8, 16, 64, 128, True)


@pytest.mark.parametrize(
    ("capability", "dtype", "sizes"),
    [
        (90, torch.bfloat16, [NETWORKS]),
        *(
            pytest.param(capability, dtype, [NETWORKS, UMAMBA2, LARGE], marks=pytest.mark.slow)
            for capability in (75, 80, 90, 100, 120)
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
        ),
    ],
)
def test_no_kernel_spills(capability, dtype, sizes, monkeypatch, tmp_path):
    from nnunetv2_mamba.ops.backends import triton_ssd_backward_kernels, triton_ssd_kernels

    modules = (triton_ssd_kernels, triton_ssd_backward_kernels)
    usages = compile_launches(monkeypatch, capability, tmp_path, backend, *modules)
    monkeypatch.setattr(backend, "_has_tf32", lambda device: capability >= 80)
    for *size, shared in sizes:
        scan(*size, dtype, shared=shared)
    check(usages)
