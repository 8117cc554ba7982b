"""Every backend of both scans against the definition in fp64, over random shapes and at the corners."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import (
    SCANS,
    SCANS_WITH_FP64,
    Case,
    assert_same,
    default_gradient,
    relative_error,
    with_gradients,
    with_projected_weights,
)

from nnunetv2_mamba.ops import backend_selection, directional_scan

every_scan = pytest.mark.parametrize(("make", "backend", "device"), SCANS)


def truth(case: Case) -> dict[str, torch.Tensor]:
    return case.to("cpu", torch.float64).run_with_gradients("reference")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_results_are_differentiated_alike_in_every_precision(dtype):
    """Of more numbers than the largest in fp16, as the tests on a GPU have them."""
    x = torch.ones(70_000, dtype=dtype, requires_grad=True)
    exact = x.detach().double().requires_grad_()
    actual, expected = (with_gradients(2 * t, {"x": t})["x"] for t in (x, exact))
    assert relative_error(actual, expected) <= torch.finfo(dtype).eps


@st.composite
def cases(draw):
    return dict(
        batch=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 3)),
        length=draw(st.one_of(st.integers(1, 20), st.integers(60, 150))),
        channels=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 32, 40]))),
        state_size=draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 64])),
        shared=draw(st.booleans()),
        D=draw(st.booleans()),
        delta_bias=draw(st.booleans()),
        z=draw(st.booleans()),
        delta_softplus=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )


@every_scan
@settings(max_examples=25)
@given(arguments=cases())
def test_equals_the_definition(make, backend, device, arguments):
    case = make(**arguments)
    assert_same(case.to(device).run_with_gradients(backend), truth(case))


@every_scan
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 300])
def test_every_length_around_a_block(make, backend, device, length):
    case = make(batch=1, length=length, channels=3)
    assert_same(case.to(device).run_with_gradients(backend), truth(case))


@every_scan
@pytest.mark.parametrize("state_size", [1, 31, 32, 33, 100, 128, 255, 256])
def test_every_state_size(make, backend, device, state_size):
    case = make(batch=1, length=70, channels=3, state_size=state_size)
    assert_same(case.to(device).run_with_gradients(backend), truth(case))


@every_scan
def test_many_channels(make, backend, device):
    case = make(length=40, channels=200)
    assert_same(case.to(device).run_with_gradients(backend), truth(case))


@pytest.mark.parametrize(("make", "backend", "device"), SCANS_WITH_FP64)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("options", [True, False])
def test_gradcheck(make, backend, device, shared, options):
    case = make(
        batch=1,
        length=5,
        channels=2,
        state_size=2,
        shared=shared,
        D=options,
        delta_bias=options,
        z=options,
        dtype=torch.float64,
    ).to(device)
    names = [name for name, tensor in case.tensors.items() if tensor is not None]

    def scan(*tensors):
        return case.with_tensors(**dict(zip(names, tensors, strict=True))).run(backend)

    assert torch.autograd.gradcheck(scan, [case.tensors[name] for name in names])


@pytest.mark.parametrize(("make", "backend", "device"), SCANS_WITH_FP64)
def test_fp64_is_computed_in_fp64(make, backend, device):
    case = make(length=200, dtype=torch.float64)
    assert_same(case.to(device).run_with_gradients(backend), truth(case), forward=1e-12, gradient=1e-12)


@every_scan
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_precision_inputs_lose_only_their_rounding(make, backend, device, dtype, tolerance):
    case = make(length=150).to(device)
    for name in ("u", "delta", "B", "C", "z"):
        case.tensors[name] = case.tensors[name].detach().to(dtype).requires_grad_()
    # D stays fp32: parameters are, under autocast, whatever the inputs are.
    result = case.run_with_gradients(backend)
    assert_same(result, truth(case), forward=tolerance, gradient=tolerance)
    assert result["out"].dtype == dtype
    for name, tensor in case.tensors.items():
        assert result[name].dtype == tensor.dtype, name
    # Sums over the whole sequence are not rounded on the way.
    assert_same({"A": result["A"]}, {"A": truth(case)["A"]}, gradient=2 * tolerance)


@every_scan
def test_dtypes_may_differ(make, backend, device):
    case = make(length=50).to(device)
    case.tensors["delta"] = case.tensors["delta"].detach().bfloat16().requires_grad_()
    case.tensors["C"] = case.tensors["C"].detach().half().requires_grad_()
    result = case.run_with_gradients(backend)
    assert (result["out"].dtype, result["delta"].dtype, result["C"].dtype) == (
        torch.float32,
        torch.bfloat16,
        torch.half,
    )
    expected = truth(case)
    assert relative_error(result["out"], expected["out"]) < 1e-5
    assert relative_error(result["delta"], expected["delta"]) < 8e-3


@pytest.mark.parametrize("lifting", ["u", "delta", "B", "C", "z"])
@pytest.mark.parametrize(("make", "backend", "device"), SCANS_WITH_FP64)
def test_one_fp64_input_lifts_the_computation(make, backend, device, lifting):
    """Its gradient has no fp32 rounding in it, and the others have that of their own dtype only."""
    case = make(length=50).to(device)
    grad_out = torch.randn(case.tensors["z"].shape, generator=torch.Generator().manual_seed(0))
    expected = case.to("cpu", torch.float64).run_with_gradients("reference", grad_out)
    case.tensors[lifting] = case.tensors[lifting].detach().double().requires_grad_()
    result = case.run_with_gradients(backend, grad_out)
    assert result["out"].dtype == case.tensors["u"].dtype
    for name, tensor in case.tensors.items():
        assert result[name].dtype == tensor.dtype == (torch.float64 if name == lifting else torch.float32)
    assert relative_error(result[lifting], expected[lifting]) < 1e-12
    for name in ("out", *case.tensors):
        assert relative_error(result[name], expected[name]) < 6e-8, name


@every_scan
@pytest.mark.parametrize("shared", [True, False])
def test_an_empty_batch_reaches_no_backend(make, backend, device, shared, monkeypatch):
    case = make(batch=0, shared=shared).to(device)
    module = backend_selection.load(backend, case.operator.__name__)
    monkeypatch.delattr(module, "scan_forward")
    monkeypatch.delattr(module, "scan_backward")
    result = case.run_with_gradients(backend)
    assert result["out"].shape == (0, 30, 5)
    for name, tensor in case.tensors.items():
        assert result[name].shape == tensor.shape
        assert not result[name].any()


@every_scan
def test_strides_do_not_matter(make, backend, device):
    case = make(shared=False).to(device)
    expected = case.run_with_gradients(backend)
    for rearranged in (
        lambda t: torch.stack([t, t], dim=-1)[..., 0],  # a stride of 2 along the last axis
        lambda t: torch.cat([t, t], dim=-1)[..., : t.shape[-1]],  # a slice, as from a split projection
        lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    ):
        strided = case.with_tensors(**{k: rearranged(t.detach()).requires_grad_() for k, t in case.tensors.items()})
        assert not strided.tensors["u"].is_contiguous()
        assert_same(strided.run_with_gradients(backend), expected, forward=1e-6, gradient=1e-6)


@every_scan
def test_weights_may_be_parts_of_a_projection(make, backend, device):
    case = make().to(device)
    projected = with_projected_weights(case, rank=3)
    assert any(projected.tensors[name].data_ptr() % 16 for name in ("B", "C"))
    assert_same(projected.run_with_gradients(backend), case.run_with_gradients(backend), forward=1e-6, gradient=1e-6)


@every_scan
def test_paths_may_be_a_view(make, backend, device):
    case = make().to(device)
    strided = replace(case, paths=case.paths.T.contiguous().T)
    assert_same(strided.run_with_gradients(backend), case.run_with_gradients(backend), forward=0, gradient=0)


@every_scan
def test_an_expanded_gradient(make, backend, device):
    case = make().to(device)
    expanded = torch.ones((), device=device).expand(2, 30, 5)
    result = case.run_with_gradients(backend, expanded)
    assert_same(result, case.run_with_gradients(backend, expanded.contiguous()), forward=0, gradient=0)


@every_scan
def test_gradients_of_some_inputs_only(make, backend, device):
    case = make().to(device)
    expected = case.run_with_gradients(backend)
    for name in case.tensors:
        alone = {k: t.detach().requires_grad_(k == name) for k, t in case.tensors.items()}
        out = case.with_tensors(**alone).run(backend)
        (gradient,) = torch.autograd.grad(out, [alone[name]], default_gradient(out))
        assert torch.equal(gradient, expected[name]), name


@every_scan
def test_the_same_bits_every_time(make, backend, device):
    case = make(length=500, channels=33).to(device)
    first = case.run_with_gradients(backend)
    for _ in range(3):
        assert_same(case.run_with_gradients(backend), first, forward=0, gradient=0)


@every_scan
def test_inputs_are_left_alone(make, backend, device):
    case = make().to(device)
    before = {name: tensor.detach().clone() for name, tensor in case.tensors.items()}
    paths = case.paths.clone()
    case.run_with_gradients(backend)
    assert torch.equal(case.paths, paths)
    for name, tensor in case.tensors.items():
        assert torch.equal(tensor.detach(), before[name]), name


@every_scan
def test_little_is_saved_for_the_backward(make, backend, device):
    case = make(batch=1, length=4096, channels=32, state_size=16).to(device)
    inputs = {tensor.data_ptr() for tensor in (*case.tensors.values(), case.paths)}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = case.run(backend)
    extra = sum(t.numel() for t in saved if t.data_ptr() not in inputs)
    assert extra <= case.tensors["u"].numel()
    assert out.requires_grad


@every_scan
def test_directions_read_their_own_input(make, backend, device):
    case = make(directions=3, shared=True).to(device)
    spread = case.with_tensors(u=case.tensors["u"][:, None].repeat(1, 3, 1, 1))
    assert torch.allclose(case.run(backend), spread.run(backend), rtol=1e-6, atol=1e-6)


def test_the_definition_by_hand():
    """One channel, one state, two steps backwards: h = B2 u2, then h = e^{-1} h + B1 u1."""
    out = directional_scan(
        u=torch.tensor([[[2.0], [3.0]]]),
        delta=torch.ones(1, 1, 2, 1),
        A=-torch.ones(1, 1, 1),
        B=torch.tensor([[[[5.0], [7.0]]]]),
        C=torch.tensor([[[[11.0], [13.0]]]]),
        paths=torch.tensor([[1, 0]], dtype=torch.int32),
        D=torch.tensor([[0.5]]),
        backend="reference",
    )
    last = 7.0 * 3.0
    first = torch.exp(torch.tensor(-1.0)) * last + 5.0 * 2.0
    torch.testing.assert_close(out, torch.tensor([[[11 * first + 1.0], [13 * last + 1.5]]]))
