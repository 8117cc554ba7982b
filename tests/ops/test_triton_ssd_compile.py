"""Mamba-2's Triton kernels compiled as `test_triton_compile.py` compiles those of the first scan."""

import pytest
import torch

pytest.importorskip("triton.backends.nvidia", reason="triton cannot be imported, or is not for NVIDIA GPUs")
from offline_gpu import CAPABILITIES, CUOBJDUMP, Usage, compiling_for, usage_of, use_ssd  # noqa: E402

from nnunetv2_mamba.ops.backends import triton_ssd as backend  # noqa: E402
from nnunetv2_mamba.ops.backends.triton_launch import compile_ahead  # noqa: E402

pytestmark = pytest.mark.skipif(not CUOBJDUMP.exists(), reason="this triton brings no cuobjdump")
SHARED_MEMORY = 48 * 1024  # bytes of a program, which every GPU has


def check(usages: list[Usage]) -> None:
    assert {usage.kernel for usage in usages} >= {
        "chunk_kernel", "carry_kernel", "output_kernel", "token_gradient_kernel", "weight_gradient_kernel",
    }  # fmt: skip
    for usage in usages:
        assert usage.stack_bytes == 0, usage
        assert usage.shared_bytes <= SHARED_MEMORY, usage


NETWORKS = (3, 8, 24, 16)
UMAMBA2 = (1, 8, 80, 32)
LARGE = (8, 16, 64, 128)


@pytest.mark.parametrize(
    ("capability", "dtype", "sizes"),
    [
        (90, torch.bfloat16, [NETWORKS]),
        *(
            pytest.param(capability, dtype, [NETWORKS, UMAMBA2, LARGE], marks=pytest.mark.slow)
            for capability in CAPABILITIES
            for dtype in (torch.bfloat16, torch.float16, torch.float32)
        ),
    ],
)
def test_no_kernel_spills(capability, dtype, sizes, monkeypatch):
    monkeypatch.setattr(backend, "_has_tf32", lambda device: capability >= 80)
    with compiling_for(capability):
        for size in sizes:
            use = lambda launch, size=size: use_ssd(launch, *size, dtype, shared=size == LARGE)  # noqa: E731
            check([usage_of(kernel) for kernel in compile_ahead(use)])
