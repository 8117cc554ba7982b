"""Kernels that fail or compute nonsense on a machine are found out before they are used."""

from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.ops.backends import cpu, torch_chunked, torch_ssd
from nnunetv2_mamba.ops.backends.self_check import SSD_TOLERANCES, disagreement, ssd_disagreement

CPU = torch.device("cpu")
FUNCTIONS = ("scan_forward", "scan_backward", "conv_forward", "conv_backward")


def backend(**replaced) -> SimpleNamespace:
    return SimpleNamespace(**{name: getattr(torch_chunked, name) for name in FUNCTIONS} | replaced)


def test_kernels_that_agree_pass():
    if (reason := cpu.available()) is not None:
        pytest.skip(f"no CPU kernels here: {reason}")
    assert disagreement(cpu, CPU) is None


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("factor", [1.01, float("nan")])
def test_wrong_results_are_found(function, factor):
    def wrong(*arguments):
        results = getattr(torch_chunked, function)(*arguments)
        if isinstance(results, torch.Tensor):
            return results * factor
        return results[0] * factor, *results[1:]

    assert "results are wrong" in disagreement(backend(**{function: wrong}), CPU)


@pytest.mark.parametrize("error", [RuntimeError("no kernel image is available\nfor this device"), ValueError()])
def test_failures_are_told(error):
    def fails(*arguments):
        raise error

    reason = disagreement(backend(scan_backward=fails), CPU)
    assert type(error).__name__ in reason
    assert "\n" not in reason


def ssd_backend(**replaced) -> SimpleNamespace:
    functions = {name: getattr(torch_ssd, name) for name in ("scan_forward", "scan_backward")}
    return SimpleNamespace(**functions | replaced)


def test_kernels_of_mamba_2_that_agree_pass():
    assert ssd_disagreement(ssd_backend(), CPU) is None


@pytest.mark.parametrize("function", ["scan_forward", "scan_backward"])
@pytest.mark.parametrize("dtype", SSD_TOLERANCES)
def test_wrong_results_of_mamba_2_are_found_in_every_precision(function, dtype):
    def wrong(*arguments):
        scan = next(argument for argument in arguments if hasattr(argument, "delta_softplus"))
        first, *others = getattr(torch_ssd, function)(*arguments)
        return first * (1.1 if scan.u.dtype == dtype else 1), *others

    assert "results are wrong" in ssd_disagreement(ssd_backend(**{function: wrong}), CPU)


def test_a_tracer_does_not_disturb_the_check():
    with FakeTensorMode():
        assert disagreement(backend(), CPU) is None
