"""Finite inputs give finite and right results where naive scans overflow, underflow or divide by zero."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, SCANS, Case, assert_same, make_case, make_ssd_case, relative_error

every_scan = pytest.mark.parametrize(("make", "backend", "device"), SCANS)
LONG = 262_144  # a 64 x 64 x 64 grid: SegMamba's first stage at a patch of 128 x 128 x 128


def long_case(make, device: str, step: float, decay: float) -> Case:
    case = make(
        batch=1,
        directions=1,
        length=LONG,
        channels=2,
        state_size=3,
        D=False,
        delta_bias=False,
        z=False,
        delta_softplus=False,
        **({"heads": 1} if make is make_ssd_case else {}),
    )
    case.tensors["delta"] = torch.full_like(case.tensors["delta"], step)
    case.tensors["A"] = torch.full_like(case.tensors["A"], -decay)
    return case.to(device)


@every_scan
@pytest.mark.parametrize(("step", "decay"), [(8.0, 130.0), (1e4, 1.0), (1.0, 1e30)])
def test_memory_that_dies_at_once(make, backend, device, step, decay):
    """exp(delta A) = 0: the state is the present input alone, so y = delta u (B . C)."""
    case = long_case(make, device, step, decay)
    u, B, C = (case.tensors[name].detach().double() for name in ("u", "B", "C"))
    B, C = B.flatten(3), C.flatten(3)
    result = case.run_with_gradients(backend)
    assert relative_error(result["out"], step * u * (B * C).sum(-1)[:, 0, :, None]) < 1e-5
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@every_scan
def test_memory_that_never_fades(make, backend, device):
    """exp(delta A) = 1: the state is the sum of the past."""
    case = long_case(make, device, 1.0, 0.0)
    path = case.paths[0].long()
    u, B, C = (case.tensors[name].detach().double() for name in ("u", "B", "C"))
    B, C = B.flatten(3), C.flatten(3)
    state = (u[0, path, :, None] * B[0, 0, path, None, :]).cumsum(0)
    expected = torch.empty_like(u)
    expected[0, path] = (state * C[0, 0, path, None, :]).sum(-1)
    result = case.run_with_gradients(backend)
    assert relative_error(result["out"], expected) < 1e-5
    assert all(torch.isfinite(tensor).all() for tensor in result.values())


@every_scan
@pytest.mark.parametrize(("step", "decay"), [(0.1, 1.0), (1e-4, 1.0), pytest.param(8.0, 16.0, marks=pytest.mark.slow)])
def test_long_sequences_keep_their_precision(make, backend, device, step, decay):
    """fp32 against the torch backend in fp64, which the other tests hold to the definition."""
    case = long_case(make, device, step, decay)
    with torch.no_grad():
        case.tensors["delta"] *= torch.rand_like(case.tensors["delta"])
    expected = case.to("cpu", torch.float64).run_with_gradients("torch")
    assert_same(case.run_with_gradients(backend), expected)


@every_scan
@pytest.mark.parametrize("decay", [1.0])
def test_a_long_memory_of_equal_steps(make, backend, device, decay):
    """In fp32, exp(-1e-4) has few digits of its distance from 1: the same error 262,144 times over."""
    case = long_case(make, device, 1e-4, decay)
    assert_same(case.run_with_gradients(backend), case.to("cpu", torch.float64).run_with_gradients("torch"))


@every_scan
@pytest.mark.parametrize("magnitude", [50.0, 90.0, 1e4, 1e8])
@pytest.mark.parametrize("sign", [1, -1])
def test_softplus_neither_overflows_nor_loses_its_slope(make, backend, device, magnitude, sign):
    case = make(length=80, D=False, z=False, delta_bias=False)
    with torch.no_grad():
        case.tensors["delta"] += sign * magnitude
    result = case.to(device).run_with_gradients(backend)
    assert_same(result, case.to("cpu", torch.float64).run_with_gradients("reference"))


@every_scan
def test_large_gates_and_inputs(make, backend, device):
    case = make(length=80)
    with torch.no_grad():
        case.tensors["z"] *= 200
        case.tensors["u"] *= 1e6
    assert_same(
        case.to(device).run_with_gradients(backend), case.to("cpu", torch.float64).run_with_gradients("reference")
    )


@every_scan
def test_the_largest_finite_half_precision_inputs(make, backend, device):
    case = make(length=80, D=False, z=False)
    case.tensors["delta"] = torch.full_like(case.tensors["delta"], torch.finfo(torch.float16).max)
    case = case.to(device, torch.float16)
    with torch.no_grad():
        case.tensors["u"] *= 1e-4
        case.tensors["B"] *= 1e-2
    result = case.run_with_gradients(backend, torch.full((2, 80, 5), 1e-3))
    for name, tensor in result.items():
        assert torch.isfinite(tensor).all(), name


@every_scan
@settings(max_examples=30)
@given(exponents=st.lists(st.integers(-8, 4), min_size=8, max_size=8), softplus=st.booleans(), seed=st.integers(0, 99))
def test_finite_inputs_give_finite_results(make, backend, device, exponents, softplus, seed):
    """Every input in a magnitude of its own, from 1e-8 to 1e4."""
    case = make(length=70, channels=3, delta_softplus=softplus, seed=seed)
    with torch.no_grad():
        for tensor, exponent in zip(case.tensors.values(), exponents, strict=True):
            tensor *= 10.0**exponent
    result = case.to(device).run_with_gradients(backend)
    for name, tensor in result.items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_zero_states_survive_growing_modes(backend, device):
    """A > 0 multiplies nothing by a number that overflows over a chunk, when there is nothing to multiply."""
    case = make_case(length=400, D=False, z=False, delta_bias=False, delta_softplus=False)
    with torch.no_grad():
        case.tensors["A"].fill_(1.0)
        case.tensors["delta"].fill_(3.0)
        case.tensors["u"].zero_()
    assert not case.to(device).run(backend).any()


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "delta_bias", "z"])
@every_scan
def test_nan_of_any_argument_is_seen(make, backend, device, name):
    """A training that diverges must not go on with numbers that look sound."""
    case = make(length=40)
    damaged = case.tensors[name].detach().clone()
    damaged.view(-1)[0] = float("nan")
    assert case.with_tensors(**{name: damaged}).to(device).run(backend).isnan().any()
