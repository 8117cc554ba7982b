"""KAN blocks against the definitions of their functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import assert_close
from kept_storages import kept_bytes
from scipy.interpolate import BSpline
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.architectures.msd_kmamba.kan import KINDS, kan_block
from nnunetv2_mamba.architectures.msd_kmamba.kan.basis import BasisConv, bspline_basis, rbf_basis
from nnunetv2_mamba.architectures.msd_kmamba.kan.rational import IDENTITY, SILU, GroupRational

BASES = {"bspline": bspline_basis, "rbf": rbf_basis}


def random_rational(channels: int, dtype=torch.float32) -> GroupRational:
    """With coefficients of both signs, and different ones in every group."""
    rational = GroupRational(channels, SILU).to(dtype)
    nn.init.normal_(rational.numerator)
    nn.init.normal_(rational.denominator)
    return rational


def rational_by_definition(rational: GroupRational, x: torch.Tensor) -> torch.Tensor:
    """Channel by channel with numpy's polynomials, in float64."""
    a, b = (p.detach().double().numpy() for p in rational.parameters())
    v = x.detach().double().numpy()
    result = np.empty_like(v)
    for channel in range(x.shape[1]):
        group = channel // (x.shape[1] // 8)
        above = np.polynomial.Polynomial(a)(v[:, channel])
        below = np.polynomial.Polynomial([1, *np.abs(b[group])])(np.abs(v[:, channel]))
        result[:, channel] = above / below
    return torch.from_numpy(result)


@pytest.mark.parametrize("shape", [(2, 16, 3, 5, 4), (3, 8, 7, 6), (1, 24, 1, 1, 9)])
def test_rational_is_its_definition(shape):
    rational, x = random_rational(shape[1]), 4 * torch.randn(shape)
    assert_close(rational(x).double(), rational_by_definition(rational, x), 1e-5)


def test_rational_takes_any_memory_layout():
    rational, x = random_rational(16), torch.randn(2, 4, 5, 3, 16).movedim(-1, 1)
    assert not x.is_contiguous()
    assert_close(rational(x).double(), rational_by_definition(rational, x), 1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 3, 2), (1, 16, 2, 1, 3)])
def test_rational_gradients(shape):
    rational = random_rational(shape[1], torch.float64)
    x = torch.randn(shape, dtype=torch.float64)
    x = (x + 0.1 * x.sign()).requires_grad_()  # |x| has no derivative at 0

    def function(x, numerator, denominator):
        parameters = {"numerator": numerator, "denominator": denominator}
        return torch.func.functional_call(rational, parameters, (x,))

    assert torch.autograd.gradcheck(function, (x, rational.numerator, rational.denominator))


def test_rational_starts_as_identity_and_as_silu():
    x = torch.linspace(-3, 3, 101).expand(1, 8, 1, -1)
    wide = torch.linspace(-10, 10, 101).expand(1, 8, 1, -1)
    assert (GroupRational(8, IDENTITY)(x / 3) - x / 3).abs().max() < 5e-3
    assert (GroupRational(8, SILU)(x) - nn.functional.silu(x)).abs().max() < 1e-4
    assert (GroupRational(8, SILU)(wide) - nn.functional.silu(wide)).abs().max() < 0.17


def test_rational_denominators_can_leave_their_start():
    for start in (IDENTITY, SILU):
        rational = GroupRational(8, start)
        rational(torch.randn(2, 8, 4, 4)).square().sum().backward()
        assert (rational.denominator.grad != 0).all()


def test_rational_is_exact_in_half_precision():
    """Computed in fp32: the fifth power of 30 overflows in fp16."""
    rational, x = GroupRational(8, SILU), (30 * torch.randn(2, 8, 4, 4)).half()
    with torch.autocast("cpu", dtype=torch.float16):
        y = rational(x)
    assert y.dtype == torch.float16
    assert_close(y.double(), rational_by_definition(rational, x), 1e-3)


def test_bspline_basis_is_its_definition():
    """The B-splines of scipy on the knots of a KAN: 5 intervals over [-3, 3], extended by 3 on either side."""
    step = 6 / 5
    knots = -3 + step * np.arange(-3, 9)
    x = np.linspace(-8, 8, 1000)
    expected = [BSpline.basis_element(knots[i : i + 5], extrapolate=False)(x) for i in range(8)]
    expected = torch.from_numpy(np.nan_to_num(np.stack(expected)))
    assert_close(bspline_basis(torch.from_numpy(x)), expected, 1e-12)
    assert_close(bspline_basis(torch.from_numpy(x).float()).double(), expected, 1e-5)


def test_bspline_basis_sums_to_one_inside_its_grid():
    inside, outside = torch.linspace(-3, 3, 1001), torch.tensor([-6.7, 6.7, 1e4, -1e4])
    basis = bspline_basis(inside)
    assert basis.min() >= 0
    assert (basis.sum(0) - 1).abs().max() < 1e-5
    assert bspline_basis(outside).abs().max() == 0


def test_rbf_basis_is_its_definition():
    x = torch.linspace(-5, 5, 101)
    expected = [[math.exp(-(((v - (-2 + 4 * m / 7)) / (4 / 7)) ** 2)) for v in x.tolist()] for m in range(8)]
    assert_close(rbf_basis(x).double(), torch.tensor(expected, dtype=torch.float64), 1e-5)


@pytest.mark.parametrize("kind", BASES)
@pytest.mark.parametrize("conv_op", [nn.Conv2d, nn.Conv3d])
def test_basis_layer_is_its_definition(kind, conv_op):
    """A sum of learned functions of one channel each, in float64, function by function."""
    layer = BasisConv(4, conv_op, BASES[kind])
    x = 2 * torch.randn(2, 4, *((3, 5) if conv_op is nn.Conv2d else (3, 5, 2)))
    weight = layer.conv.weight.detach().double().flatten(1).unflatten(1, (9, 4))  # output, function, input
    v = x.double()
    expected = torch.zeros_like(v)
    for out in range(4):
        for channel in range(4):
            functions = [v[:, channel] / (1 + torch.exp(-v[:, channel])), *BASES[kind](v[:, channel])]
            for m, function in enumerate(functions):
                expected[:, out] += weight[out, m, channel] * function
    assert_close(layer(x).double(), expected, 1e-5)


@pytest.mark.parametrize("kind", ["bspline", "rbf"])
def test_basis_layer_gradients(kind):
    layer = BasisConv(2, nn.Conv2d, BASES[kind]).double()
    x = (2 * torch.randn(1, 2, 3, 2, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(layer, {"conv.weight": weight}, (x,)), (x, layer.conv.weight)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_autocast(kind, dtype):
    """Finite, also where the input is large, and close to fp32."""
    block = kan_block(kind, 16, nn.Conv3d)
    x = torch.randn(2, 16, 4, 4, 4)
    expected = block(x)
    with torch.autocast("cpu", dtype=dtype):
        assert_close(block(x).float(), expected, 0.1 if dtype == torch.bfloat16 else 0.02)
        y = block(100 * x.requires_grad_())
    y.float().square().mean().backward()
    assert y.isfinite().all()
    for tensor in (x, *block.parameters()):
        assert tensor.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_basis_is_computed_in_fp32(dtype):
    """Close to its edges, half precision leaves few digits of the cubes' differences."""
    seen = []

    def basis(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.dtype)
        return bspline_basis(x)

    layer = BasisConv(8, nn.Conv2d, basis)
    seen.clear()
    with torch.autocast("cpu", dtype=dtype):
        assert layer(torch.randn(1, 8, 4, 4, dtype=dtype)).dtype == dtype
    assert seen == [torch.float32]


def test_rational_block_starts_with_the_variance_of_its_input():
    torch.manual_seed(0)
    y = kan_block("rational", 128, nn.Conv2d)(torch.randn(2, 128, 16, 16))
    assert y.var().item() == pytest.approx(1, rel=0.2)


@pytest.mark.parametrize("kind", BASES)
def test_the_second_basis_layer_sees_normalised_features(kind):
    """So that they lie in its range, however large the first layer's weights have become."""
    block, x = kan_block(kind, 8, nn.Conv2d), torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        expected = block(x)
        block[0].conv.weight *= 100
        assert_close(block(x), expected, 1e-3)


def bytes_kept(block: nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> int:
    """Memory that the block keeps for its backward pass, without its parameters."""

    def forward() -> None:
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            assert block(x).requires_grad

    return kept_bytes(forward, without=block.parameters())


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_memory_for_the_backward_pass(dtype):
    """No kind keeps more than 1.5 times what the MLP keeps, in spite of powers and bases."""
    x = torch.randn(1, 32, 16, 16, 16, requires_grad=True)
    kept = {kind: bytes_kept(kan_block(kind, 32, nn.Conv3d), x, dtype) for kind in KINDS}
    assert all(size <= 1.5 * kept["mlp"] for size in kept.values()), kept


@pytest.mark.parametrize("kind", KINDS)
def test_compile_export_and_fake_tensors(kind):
    block, x = kan_block(kind, 8, nn.Conv2d), torch.randn(1, 8, 4, 4, requires_grad=True)
    inputs = (x, *block.parameters())
    y = block(x)
    gradients = torch.autograd.grad(y.square().sum(), inputs)
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)(x)
    assert_close(compiled, y, 1e-6)
    for actual, expected in zip(torch.autograd.grad(compiled.square().sum(), inputs), gradients, strict=True):
        assert_close(actual, expected, 1e-5)
    exported = torch.export.export(block, (x.detach(),), strict=False)
    assert_close(exported.module()(x.detach()), y, 1e-6)
    with FakeTensorMode():
        fake = kan_block(kind, 8, nn.Conv3d)(torch.randn(2, 8, 3, 4, 5))
    assert fake.shape == (2, 8, 3, 4, 5)


def test_unknown_kind_and_width_are_named():
    with pytest.raises(ValueError, match="kan must be one of rational, bspline, rbf, mlp"):
        kan_block("fourier", 16, nn.Conv3d)
    with pytest.raises(ValueError, match="multiples of 8, got 12"):
        kan_block("rational", 12, nn.Conv3d)
