"""Kernels that fail or compute nonsense on a machine are found out before they are used."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from nnunetv2_mamba.ops.backends import cpu, torch_chunked, torch_ssd
from nnunetv2_mamba.ops.backends.self_check import TOLERANCES, disagreement
from nnunetv2_mamba.ops.device_errors import CheckPostponedError, DeviceLostError
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

CPU = torch.device("cpu")
# Of each operator, the functions that compute it and the backend that is trusted.
FUNCTIONS = {
    "directional_scan": (("scan_forward", "scan_backward"), torch_chunked),
    "causal_conv1d": (("conv_forward", "conv_backward"), torch_chunked),
    "directional_ssd": (("scan_forward", "scan_backward"), torch_ssd),
}
EACH_FUNCTION = [(operator, function) for operator, (names, _) in FUNCTIONS.items() for function in names]


def check(operator: str, dtype: torch.dtype = torch.float32, **replaced) -> str | None:
    """The check of torch's own functions but for those that are replaced; the operator's alone are there."""
    names, trusted = FUNCTIONS[operator]
    functions = {name: getattr(trusted, name) for name in names} | replaced
    return disagreement(operator, SimpleNamespace(**functions), CPU, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("operator", FUNCTIONS)
def test_kernels_that_agree_pass(operator, dtype):
    if (reason := cpu.available()) is not None:
        pytest.skip(f"no CPU kernels here: {reason}")
    assert disagreement(operator, cpu, CPU, dtype) is None


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("operator", "function"), EACH_FUNCTION)
@pytest.mark.parametrize("factor", [1.1, float("nan")])
def test_wrong_results_are_found_in_every_precision(operator, function, dtype, factor):
    given = []

    def wrong(*arguments):
        given.extend(each.dtype for each in tree_leaves(arguments) if isinstance(each, torch.Tensor))
        results = getattr(FUNCTIONS[operator][1], function)(*arguments)
        return results * factor if isinstance(results, torch.Tensor) else (results[0] * factor, *results[1:])

    assert f"wrong here in {str(dtype).removeprefix('torch.')}" in check(operator, dtype, **{function: wrong})
    assert dtype in given


@pytest.mark.parametrize("function", ["scan_forward", "scan_backward"])
@pytest.mark.parametrize(
    "kind",
    [
        lambda scan: scan.B.shape[-1] <= 16 and scan.z is not None and scan.u.ndim == 4,
        lambda scan: scan.B.shape[-1] > 16 and scan.z is None and scan.u.ndim == 3,
    ],
    ids=["SegMamba", "MedSegMamba"],
)
def test_every_kind_of_scan_is_checked(function, kind):
    def wrong(*arguments):
        (scan,) = (argument for argument in arguments if isinstance(argument, ScanArguments))
        results = getattr(torch_chunked, function)(*arguments)
        return (results[0] * 1.1, *results[1:]) if kind(scan) else results

    assert "wrong here in float32" in check("directional_scan", **{function: wrong})


def test_small_mistakes_are_found_in_fp32():
    assert "wrong" in check("causal_conv1d", conv_forward=lambda *a: torch_chunked.conv_forward(*a) * 1.01)


def test_what_a_network_gives_begins_anywhere():
    """Rows of B, C and x are parts of a projection's: kernels must not rely on addresses that are multiples of 16."""
    begins = []

    def look(scan):
        begins.extend(t.data_ptr() % 16 for t in (scan.B, scan.C))
        return torch_chunked.scan_forward(scan)

    assert check("directional_scan", torch.float16, scan_forward=look) is None
    assert all(begins)


@pytest.mark.parametrize("error", [RuntimeError("no kernel image is available\nfor this device"), ValueError()])
def test_failures_are_told(error):
    reason = check("directional_scan", scan_backward=raises(error))
    assert f"it failed here in float32: {type(error).__name__}" in reason and "please report this" in reason
    assert "\n" not in reason


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
    ids=str,
)
def test_what_may_work_later_is_no_verdict(error):
    with pytest.raises(CheckPostponedError, match="cannot be found out now") as postponed:
        check("directional_scan", scan_forward=raises(error))
    assert str(error).splitlines()[0][:40] in str(postponed.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronous"),
        RuntimeError("Triton Error [CUDA]: misaligned address"),
    ],
    ids=str,
)
def test_a_kernel_after_which_the_device_is_dead_is_replaced_by_nothing(error):
    with pytest.raises(DeviceLostError, match="start again with NNUNETV2_MAMBA_SCAN=torch") as lost:
        check("directional_scan", scan_forward=raises(error))
    assert str(error).splitlines()[0] in str(lost.value) and str(CPU) in str(lost.value)


def raises(error: Exception):
    def fail(*arguments):
        raise error

    return fail


def test_a_tracer_does_not_disturb_the_check():
    with FakeTensorMode():
        assert check("directional_scan") is None
