"""Inputs for the tests of the ops, the backends that this machine has, and how results are compared."""

from dataclasses import dataclass

import torch
from torch import Tensor

from nnunetv2_mamba.ops import backend_selection, causal_conv1d, directional_scan

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

    def to(self, *args) -> "Case":
        """The same values as new leaf tensors of another dtype or on another device."""
        tensors = {k: None if t is None else t.detach().to(*args).requires_grad_() for k, t in self.tensors.items()}
        return Case(tensors, self.paths.to(next(t for t in tensors.values()).device), self.delta_softplus)

    def run(self, backend: str) -> Tensor:
        return directional_scan(**self.tensors, paths=self.paths, delta_softplus=self.delta_softplus, backend=backend)

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


def run_conv(
    tensors: dict[str, Tensor | None], paths: Tensor, activation: str | None, backend: str
) -> dict[str, Tensor]:
    """As `Case.run_with_gradients`, for the convolution of x, weight and bias."""
    return with_gradients(causal_conv1d(**tensors, paths=paths, activation=activation, backend=backend), tensors)


def with_gradients(out: Tensor, tensors: dict[str, Tensor | None], grad_out: Tensor | None = None) -> dict[str, Tensor]:
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if grad_out is None:
        grad_out = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=out.device).view_as(out).cos()
    gradients = torch.autograd.grad(out, list(given.values()), grad_out.to(out))
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
