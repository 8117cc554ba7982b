"""mamba_ssm's layout against its own definition, in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scan_cases import BACKENDS, BACKENDS_WITH_FP64, assert_same, with_gradients

from nnunetv2_mamba.ops import definition, selective_scan

every_backend = pytest.mark.parametrize(("backend", "device"), BACKENDS)


def make_sequence(batch=2, channels=4, length=30, state_size=3, groups=None, options=True, seed=0, dtype=torch.float32):
    """Arguments of selective_scan; `groups` is None for B and C without a group axis."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    b, d, L, n = batch, channels, length, state_size
    grouped = (b, n, L) if groups is None else (b, groups, n, L)
    return {
        "u": randn(b, d, L),
        "delta": randn(b, d, L),
        "A": randn(d, n).detach().exp().neg().requires_grad_(),
        "B": randn(*grouped),
        "C": randn(*grouped),
        "D": randn(d) if options else None,
        "z": randn(b, d, L) if options else None,
        "delta_bias": randn(d) if options else None,
    }


def moved(tensors, *args):
    return {name: None if t is None else t.detach().to(*args).requires_grad_() for name, t in tensors.items()}


@st.composite
def sequences(draw):
    groups = draw(st.sampled_from([None, 1, 2, 3]))
    return make_sequence(
        batch=draw(st.integers(1, 2)),
        channels=(groups or 1) * draw(st.integers(1, 6)),
        length=draw(st.integers(1, 80)),
        state_size=draw(st.sampled_from([1, 4, 16])),
        groups=groups,
        options=draw(st.booleans()),
        seed=draw(st.integers(0, 2**20)),
    )


@every_backend
@settings(max_examples=20)
@given(tensors=sequences())
def test_equals_the_definition(backend, device, tensors):
    exact = moved(tensors, torch.float64)
    expected = with_gradients(definition.scan_sequence(**exact, delta_softplus=True), exact)
    tensors = moved(tensors, device)
    assert_same(with_gradients(selective_scan(**tensors, delta_softplus=True, backend=backend), tensors), expected)


@every_backend
def test_groups_of_one_weight_only(backend, device):
    tensors = make_sequence(groups=2)
    tensors["C"] = tensors["C"].detach()[:, 0].requires_grad_()
    exact = moved(tensors, torch.float64)
    expected = with_gradients(definition.scan_sequence(**exact), exact)
    tensors = moved(tensors, device)
    assert_same(with_gradients(selective_scan(**tensors, backend=backend), tensors), expected)


@pytest.mark.parametrize(("backend", "device"), BACKENDS_WITH_FP64)
def test_gradcheck(backend, device):
    tensors = moved(make_sequence(batch=1, length=5, state_size=2, groups=2, dtype=torch.float64), device)

    def scan(*values):
        return selective_scan(**dict(zip(tensors, values, strict=True)), delta_softplus=True, backend=backend)

    assert torch.autograd.gradcheck(scan, tuple(tensors.values()))


def test_an_empty_batch():
    assert selective_scan(**make_sequence(batch=0, groups=2)).shape == (0, 4, 30)
