"""The mamba_ssm backend around a stand-in for its kernel: what is gathered, grouped and written back."""

import sys
from types import ModuleType

import pytest
import torch
from scan_cases import assert_same, make_case, with_gradients

from nnunetv2_mamba.ops import definition
from nnunetv2_mamba.ops.backends import mamba_ssm
from nnunetv2_mamba.ops.scan_arguments import ScanArguments


@pytest.fixture
def kernel(monkeypatch):
    """mamba_ssm.ops.selective_scan_interface with the definition in place of the CUDA kernel; returns its calls."""
    calls = []

    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        calls.append((u, delta, B, C))
        return definition.scan_sequence(u, delta, A, B, C, D, z, delta_bias, delta_softplus)

    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn = selective_scan_fn
    return calls


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [True, False])
def test_equals_the_definition(kernel, shared, options):
    case = make_case(directions=3, shared=shared, D=options, delta_bias=options, z=options)
    out = mamba_ssm.directional_scan(ScanArguments(**case.tensors, paths=case.paths, delta_softplus=True))
    expected = case.to(torch.float64).run_with_gradients("reference")
    assert_same(with_gradients(out, case.tensors), expected)
    assert len(kernel) == 1


def test_the_kernel_gets_one_dtype(kernel):
    case = make_case()
    case.tensors["u"] = case.tensors["u"].detach().bfloat16()
    mamba_ssm.directional_scan(ScanArguments(**case.tensors, paths=case.paths, delta_softplus=True))
    assert {tensor.dtype for tensor in kernel[0]} == {torch.bfloat16}
