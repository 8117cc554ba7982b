"""Inputs for the tests of the ops, the backends that this machine has, and how results are compared."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from nnunetv2_mamba.ops import backend_selection, causal_conv1d, directional_scan, directional_ssd

# (backend, device) of every implementation that runs here, the definition aside.
BACKENDS = [(name, "cpu") for name in ("cpu", "torch") if backend_selection.unavailable(name) is None]
if torch.cuda.is_available():
    BACKENDS += [(name, "cuda") for name in ("triton", "torch") if backend_selection.unavailable(name) is None]
BACKENDS_WITH_FP64 = [(name, device) for name, device in BACKENDS if name != "triton"]


@dataclass
class Case:
    """The tensors of one scan by argument name, None where the scan does without, and its path table."""

    tensors: dict[str, Tensor | None]
    paths: Tensor
    delta_softplus: bool
    operator: Callable[..., Tensor] = directional_scan

    def to(self, *args) -> "Case":
        """The same values as new leaf tensors of another dtype or on another device."""
        tensors = {k: None if t is None else t.detach().to(*args).requires_grad_() for k, t in self.tensors.items()}
        return replace(self, tensors=tensors, paths=self.paths.to(next(t for t in tensors.values()).device))

    def with_tensors(self, **tensors: Tensor | None) -> "Case":
        """The same scan of other tensors."""
        return replace(self, tensors={**self.tensors, **tensors})

    def run(self, backend: str) -> Tensor:
        return self.operator(**self.tensors, paths=self.paths, delta_softplus=self.delta_softplus, backend=backend)

    def run_with_gradients(self, backend: str, grad_out: Tensor | None = None) -> dict[str, Tensor]:
        """The output as "out" and the gradient of every tensor, by its name."""
        return with_gradients(self.run(backend), self.tensors, grad_out)


def make_case(
    batch: int = 2,
    directions: int = 2,
    length: int = 30,
    channels: int = 5,
    state_size: int = 4,
    shared: bool = True,
    D: bool = True,
    delta_bias: bool = True,
    z: bool = True,
    delta_softplus: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Case:
    """Values like those of a network at work: steps of order one, decays from slow to fast, random paths."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    b, K, L, d, n = batch, directions, length, channels, state_size
    tensors = {
        "u": randn(b, L, d) if shared else randn(b, K, L, d),
        # Without softplus a step could be negative, and a state would grow without bound.
        "delta": randn(b, K, L, d) if delta_softplus else randn(b, K, L, d).detach().abs().requires_grad_(),
        "A": -torch.rand((K, d, n), generator=generator, dtype=dtype).mul_(2).requires_grad_().detach(),
        "B": randn(b, K, L, n),
        "C": randn(b, K, L, n),
        "D": randn(K, d) if D else None,
        "delta_bias": randn(K, d).detach().abs().requires_grad_() if delta_bias else None,
        "z": randn(b, L, d) if z else None,
    }
    tensors["A"].requires_grad_()
    paths = torch.stack([torch.randperm(L, generator=generator) for _ in range(K)]).int()
    return Case(tensors, paths, delta_softplus)


def make_ssd_case(
    batch: int = 2,
    directions: int = 2,
    length: int = 30,
    channels: int = 5,
    state_size: int = 4,
    shared: bool = True,
    D: bool = True,
    delta_bias: bool = True,
    z: bool = True,
    delta_softplus: bool = True,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    heads: int | None = None,
    groups: int | None = None,
) -> Case:
    """As `make_case`, for Mamba-2's scan. By default as many heads as divide the channels, six at most, in two groups
    where that is possible."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    b, K, L, d, n = batch, directions, length, channels, state_size
    H = heads or max(h for h in range(1, 7) if d % h == 0)
    G = groups or (2 if H % 2 == 0 else 1)
    delta = randn(b, K, L, H)
    tensors = {
        "u": randn(b, L, d) if shared else randn(b, K, L, d),
        "delta": delta if delta_softplus else delta.abs(),
        "A": -torch.rand((K, H), generator=generator, dtype=dtype) * 2,
        "B": randn(b, K, L, G, n),
        "C": randn(b, K, L, G, n),
        "D": randn(K, H) if D else None,
        "delta_bias": randn(K, H).abs() if delta_bias else None,
        "z": randn(b, L, d) if z else None,
    }
    paths = torch.stack([torch.randperm(L, generator=generator) for _ in range(K)]).int()
    tensors = {name: None if t is None else t.requires_grad_() for name, t in tensors.items()}
    return Case(tensors, paths, delta_softplus, directional_ssd)


def with_projected_weights(case: Case, rank: int) -> Case:
    """The same scan with B and C as a network has them: parts of one projection, behind ``rank`` numbers for the steps.

    With odd ranks, and in 16 bits with most, no row begins at a multiple of 16 bytes.
    """
    B, C = (case.tensors[name].detach() for name in ("B", "C"))
    projected = torch.cat([B.new_zeros(*B.shape[:-1], rank), B, C], dim=-1)
    _, B, C = projected.split((rank, B.shape[-1], C.shape[-1]), dim=-1)
    return case.with_tensors(B=B.requires_grad_(), C=C.requires_grad_())


MAKERS = {"directional_scan": make_case, "directional_ssd": make_ssd_case}
# (make, backend, device) of every implementation of both scans that runs here, the definition aside.
SCANS = [
    pytest.param(make, name, device, id=f"{operator}-{name}-{device}")
    for operator, make in MAKERS.items()
    for name, device in BACKENDS
    if backend_selection.unavailable(name, operator) is None
]
SCANS_WITH_FP64 = [scan for scan in SCANS if scan.values[1:] in BACKENDS_WITH_FP64]


def run_conv(
    tensors: dict[str, Tensor | None], paths: Tensor, activation: str | None, backend: str
) -> dict[str, Tensor]:
    """As `Case.run_with_gradients`, for the convolution of x, weight and bias."""
    return with_gradients(causal_conv1d(**tensors, paths=paths, activation=activation, backend=backend), tensors)


def default_gradient(out: Tensor) -> Tensor:
    """A gradient of the result; made in fp64, as in fp16 the steps of more than 65504 numbers would be 0."""
    return torch.linspace(-1, 1, out.numel(), dtype=torch.float64, device=out.device).view_as(out).cos().to(out)


def with_gradients(out: Tensor, tensors: dict[str, Tensor | None], grad_out: Tensor | None = None) -> dict[str, Tensor]:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    gradient = default_gradient(out) if grad_out is None else grad_out.to(out)
    gradients = torch.autograd.grad(out, list(given.values()), gradient)
    return {"out": out.detach(), **dict(zip(given, gradients, strict=True))}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], forward: float = 1e-5, gradient: float = 1e-4):
    """Compare the largest difference of every tensor with the largest magnitude expected in it."""
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert actual[name].shape == value.shape, name
        error = relative_error(actual[name], value)
        assert error <= (forward if name == "out" else gradient), f"{name}: relative error {error:.2e}"


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Infinite if `actual` is not finite; zero is as good as 1e-30, whose products are below the fp32 range."""
    actual, expected = actual.detach().cpu().double(), expected.detach().cpu().double()
    if not torch.isfinite(actual).all():
        return float("inf")
    return (actual - expected).abs().max().item() / max(expected.abs().max().item(), 1e-30)
