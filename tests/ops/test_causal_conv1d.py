import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, BACKENDS_WITH_FP64, assert_same, run_conv

from nnunetv2_mamba.ops import backend_selection, causal_conv1d

every_backend = pytest.mark.parametrize(("backend", "device"), BACKENDS)


def make_conv(
    batch=2, directions=2, length=20, channels=5, width=4, shared=True, bias=True, seed=0, dtype=torch.float32
):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    tensors = {
        "x": randn(batch, length, channels) if shared else randn(batch, directions, length, channels),
        "weight": randn(directions, channels, width),
        "bias": randn(directions, channels) if bias else None,
    }
    paths = torch.stack([torch.randperm(length, generator=generator) for _ in range(directions)]).int()
    return tensors, paths


def moved(tensors, *args):
    return {name: None if t is None else t.detach().to(*args).requires_grad_() for name, t in tensors.items()}


@st.composite
def convolutions(draw):
    return make_conv(
        batch=draw(st.integers(1, 3)),
        directions=draw(st.integers(1, 3)),
        length=draw(st.integers(1, 80)),
        channels=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 31, 40]))),
        width=draw(st.integers(1, 5)),
        shared=draw(st.booleans()),
        bias=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )


@every_backend
@settings(max_examples=25)
@given(convolution=convolutions(), activation=st.sampled_from(["silu", None]))
def test_equals_the_definition(backend, device, convolution, activation):
    tensors, paths = convolution
    expected = run_conv(moved(tensors, torch.float64), paths, activation, "reference")
    assert_same(run_conv(moved(tensors, device), paths.to(device), activation, backend), expected)


def test_the_definition_is_a_causal_depthwise_convolution():
    tensors, _ = make_conv(directions=1)
    paths = torch.arange(20, dtype=torch.int32)[None]
    out = causal_conv1d(**tensors, paths=paths, activation=None, backend="reference")
    x = F.pad(tensors["x"].transpose(1, 2), (3, 0))
    expected = F.conv1d(x, tensors["weight"][0][:, None], tensors["bias"][0], groups=5).transpose(1, 2)
    torch.testing.assert_close(out[:, 0], expected)


@every_backend
def test_nothing_is_read_from_the_future(backend, device):
    tensors, paths = make_conv(shared=False)
    tensors, paths = moved(tensors, device), paths.to(device)
    before = causal_conv1d(**tensors, paths=paths, backend=backend)
    with torch.no_grad():
        for k, path in enumerate(paths.long()):
            tensors["x"][:, k, path[12:]] += 1
    after = causal_conv1d(**tensors, paths=paths, backend=backend)
    for k, path in enumerate(paths.long()):
        changed = (before[:, k, path] != after[:, k, path]).any(dim=0).any(dim=-1)
        assert changed.tolist() == [False] * 12 + [True] * 8


@pytest.mark.parametrize(("backend", "device"), BACKENDS_WITH_FP64)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("activation", ["silu", None])
def test_gradcheck(backend, device, shared, activation):
    tensors, paths = make_conv(length=7, channels=2, shared=shared, dtype=torch.float64)
    tensors, paths = moved(tensors, device), paths.to(device)

    def convolve(x, weight, bias):
        return causal_conv1d(x, weight, bias, paths, activation, backend=backend)

    assert torch.autograd.gradcheck(convolve, tuple(tensors.values()))


@every_backend
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
def test_half_precision_inputs_with_fp32_parameters(backend, device, dtype, tolerance):
    tensors, paths = make_conv(length=100)
    tensors["x"] = tensors["x"].detach().to(dtype)
    expected = run_conv(moved(tensors, torch.float64), paths, "silu", "reference")
    tensors = {name: t.detach().to(device).requires_grad_() for name, t in tensors.items()}
    result = run_conv(tensors, paths.to(device), "silu", backend)
    assert (result["out"].dtype, result["x"].dtype) == (dtype, dtype)
    assert (result["weight"].dtype, result["bias"].dtype) == (torch.float32, torch.float32)
    assert_same(result, expected, forward=tolerance, gradient=tolerance)


@every_backend
def test_an_empty_batch_reaches_no_backend(backend, device, monkeypatch):
    monkeypatch.delattr(backend_selection.load(backend), "conv_forward")
    monkeypatch.delattr(backend_selection.load(backend), "conv_backward")
    tensors, paths = make_conv(batch=0)
    result = run_conv(moved(tensors, device), paths.to(device), "silu", backend)
    assert result["out"].shape == (0, 2, 20, 5)
    assert not result["weight"].any() and not result["bias"].any()


@every_backend
def test_strides_do_not_matter(backend, device):
    tensors, paths = make_conv(shared=False)
    tensors, paths = moved(tensors, device), paths.to(device)
    expected = run_conv(tensors, paths, "silu", backend)
    halves = torch.cat([tensors["x"], tensors["x"]], dim=-1).detach()
    for x in (halves[..., :5], torch.stack([halves, halves], dim=-1)[..., :5, 0]):
        result = run_conv({**tensors, "x": x.requires_grad_()}, paths, "silu", backend)
        assert_same(result, expected, forward=1e-6, gradient=1e-6)
    weight = tensors["weight"].detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    assert not weight.is_contiguous()
    assert_same(run_conv({**tensors, "weight": weight}, paths, "silu", backend), expected, forward=1e-6, gradient=1e-6)


@every_backend
@pytest.mark.parametrize("magnitude", [100.0, 1e4])
def test_silu_does_not_overflow(backend, device, magnitude):
    tensors, paths = make_conv()
    with torch.no_grad():
        tensors["x"] *= magnitude
    expected = run_conv(moved(tensors, torch.float64), paths, "silu", "reference")
    assert_same(run_conv(moved(tensors, device), paths.to(device), "silu", backend), expected)
