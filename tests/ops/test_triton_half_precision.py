"""What is beyond fp16's range inside the Triton kernels: in Triton's interpreter, against the definition in fp64.

No finite input may give NaN. What a kernel keeps in fp16 between its passes (y of a direction, the gradient before the
convolution's activation) becomes fp16's largest number there, as between the layers of a network; everything else is
as exact as the result. bf16 has the range of fp32, and what is cubed inside fits only if it is not at the end of that.
"""

import json
from functools import partial
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from scan_cases import Case, with_gradients
from test_triton_interpreter import interpreted, tokens

from nnunetv2_mamba.ops import definition, directional_scan, directional_ssd
from nnunetv2_mamba.ops.backends import triton as scan_backend
from nnunetv2_mamba.ops.backends import triton_ssd as ssd_backend
from nnunetv2_mamba.ops.scan_arguments import ScanArguments

LARGEST = torch.finfo(torch.float16).max
# Magnitudes that an input's numbers are drawn from: the smallest there is, some of every day, the largest.
MAGNITUDES = {
    torch.float16: [0.0, 6e-8, 1e-3, 1.0, 300.0, LARGEST],
    torch.bfloat16: [0.0, 1e-30, 1e-3, 1.0, 300.0, 1e5],
}
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
OPERATORS = ("scan", "ssd", "convolution")
CASES = [(operator, dtype) for operator in OPERATORS for dtype in DTYPES]
CASES += [(f"{operator}_of_shared_input", "fp16") for operator in ("scan", "convolution")]


def drawn(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Numbers with random signs; each column has magnitudes of its own, so that not all are always at the end."""
    magnitudes = torch.tensor(MAGNITUDES[dtype], dtype=torch.float64)
    of_columns = magnitudes[torch.randint(len(magnitudes), (2, shape[-1]), generator=generator)]
    second = torch.rand(shape, generator=generator) < 0.5
    sign = (torch.rand(shape, generator=generator).double() - 0.5).sign()
    return (sign * torch.where(second, of_columns[1], of_columns[0])).to(dtype)


def saturated(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-LARGEST, LARGEST)


class Saturated(torch.autograd.Function):
    """fp16's range, and the gradient passes."""

    forward = staticmethod(lambda ctx, x: saturated(x))
    backward = staticmethod(lambda ctx, gradient: gradient)


def of_directions(operator, case: Case) -> torch.Tensor:
    """The gated sum in fp64 of directions, each within fp16's range."""
    tensors = {name: t for name, t in case.tensors.items() if name != "z"}
    total = 0
    for k in range(len(case.paths)):
        own = {name: t if t is None or name == "u" and t.ndim == 3 else t[k : k + 1] if name in ("A", "D", "delta_bias")
               else t[:, k : k + 1] for name, t in tensors.items()}  # fmt: skip
        total = total + Saturated.apply(
            operator(**own, paths=case.paths[k : k + 1], delta_softplus=True, backend="reference")
        )
    return total * F.silu(case.tensors["z"])


def scan_results(dtype: torch.dtype, shared: bool, ssd: bool) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(0)
    batch, K, length, d, n = 1, 2, 5, 32, 3
    draw = partial(drawn, generator, dtype)
    rates = (K, 4) if ssd else (K, d)
    states = (1, n) if ssd else (n,)
    tensors = {
        "u": draw(batch, length, d) if shared else draw(batch, K, length, d),
        "delta": draw(batch, K, length, rates[1]),
        "A": -torch.rand(rates if ssd else (K, d, n), generator=generator) * 2,
        "B": draw(batch, K, length, *states),
        "C": draw(batch, K, length, *states),
        "D": torch.randn(rates, generator=generator),
        "delta_bias": torch.rand(rates, generator=generator),
        "z": draw(batch, length, d),
    }
    grad_out = draw(batch, length, d)
    paths = torch.stack([torch.randperm(length, generator=generator) for _ in range(K)]).int()
    scan = ScanArguments(*list(tensors.values())[:5], paths, *list(tensors.values())[5:7], True, tensors["z"])
    backend = ssd_backend if ssd else scan_backend
    settings = {"_CHUNK": 4, "_precision": lambda *t: "ieee"} if ssd else {"_interval": tokens(2), "_CARRIED_RUNS": 2}
    with patch.multiple(backend, **settings):
        out, saved = backend.scan_forward(scan)
        gradients = backend.scan_backward(grad_out, scan, saved)
    exact = Case(tensors, paths, True).to(torch.float64)
    if ssd or dtype == torch.bfloat16:
        operator = directional_ssd if ssd else directional_scan
        exact_out = operator(**exact.tensors, paths=paths, delta_softplus=True, backend="reference")
    else:
        exact_out = of_directions(directional_scan, exact)
    exact = with_gradients(exact_out, exact.tensors, grad_out.double())
    return {"out": out, **dict(zip(tensors, gradients, strict=True))}, exact


def conv_results(dtype: torch.dtype, shared: bool) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(0)
    K, length, channels, width = 2, 7, 32, 3
    tensors = {
        "x": drawn(generator, dtype, *((1, length, channels) if shared else (1, K, length, channels))),
        "weight": torch.randn(K, channels, width, generator=generator),
        "bias": torch.randn(K, channels, generator=generator),
    }
    grad_out = drawn(generator, dtype, 1, K, length, channels)
    paths = torch.stack([torch.randperm(length, generator=generator) for _ in range(K)]).int()
    out = scan_backend.conv_forward(*tensors.values(), paths, True)
    gradients = scan_backend.conv_backward(grad_out, *tensors.values(), paths, True)
    exact = {name: t.double().requires_grad_() for name, t in tensors.items()}
    exact = with_gradients(definition.causal_conv1d(**exact, paths=paths, activation="silu"), exact, grad_out.double())
    return {"out": out, **dict(zip(tensors, gradients, strict=True))}, exact


def errors_of(operator: str, dtype: torch.dtype) -> dict[str, float]:
    """Of every result the largest difference by the largest number; NaN if there is one.

    In fp16 both are what a layer makes of Inf, and a number in the range may be the difference of two far beyond it.
    """
    shared = operator.endswith("shared_input")
    if operator.startswith("convolution"):
        actual, exact = conv_results(dtype, shared)
    else:
        actual, exact = scan_results(dtype, shared, operator == "ssd")
    errors = {}
    for name, value in actual.items():
        value, expected = value.double(), exact[name]
        digits_of_fp32 = 1e-6 * expected.abs().max()
        if actual[name].dtype == torch.float16:
            value, expected = saturated(value), saturated(expected)
        errors[name] = (((value - expected).abs() - digits_of_fp32).max() / expected.abs().max()).item()
    return errors


@pytest.fixture(scope="module")
def errors() -> dict[str, dict[str, float]]:
    return interpreted(__file__)


@pytest.mark.parametrize(("operator", "dtype"), CASES)
def test_no_finite_number_gives_nan_or_a_wrong_result(errors, operator, dtype):
    # The interpreter truncates to bf16; parts that are near the end of fp16's range have its digits there.
    tolerance = 5e-2 if dtype == "bf16" else 1e-2
    for tensor, value in errors[f"{operator} {dtype}"].items():
        # The gradient before an activation may be a tenth above the range.
        assert value <= (0.1 if operator.startswith("conv") and tensor == "x" else tolerance), f"{tensor}: {value:.2e}"


def test_a_closed_gate_closes_what_is_beyond_the_range(errors):
    assert errors["closed gate"] == [0.0] * 4


def closed_gate() -> list[float]:
    """Results of two directions of opposite sign beyond fp16's range, behind gates that are closed or nearly so."""
    token = torch.full((1, 1, 1), 250.0, dtype=torch.float16)
    ones = torch.ones(1, 2, 1, 1, dtype=torch.float16)
    B = ones * torch.tensor([250.0, -250.0], dtype=torch.float16).view(1, 2, 1, 1)
    A, paths = -torch.ones(2, 1, 1), torch.zeros(2, 1, dtype=torch.int32)
    results = []
    for z in (-20.0, -200.0):
        scan = ScanArguments(token, 4 * ones, A, B, ones, paths, z=torch.full_like(token, z))
        out, states = scan_backend.scan_forward(scan)
        gradients = scan_backend.scan_backward(torch.ones_like(out), scan, states)
        results += [out.item(), gradients.z.item()]
    return results


if __name__ == "__main__":
    measured = {f"{name} {dtype}": errors_of(name, DTYPES[dtype]) for name, dtype in CASES}
    print(json.dumps(measured | {"closed gate": closed_gate()}))
