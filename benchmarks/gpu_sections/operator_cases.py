"""What the operators are checked and timed on: sizes of the networks, and odd ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nnunetv2_mamba.ops import causal_conv1d, directional_scan, directional_ssd, scan_order

from .context import Context

Tensors = dict[str, Tensor | None]


def _ss3d(grid: tuple[int, ...], device: torch.device) -> Tensor:
    return scan_order.ss3d(grid, 0, device)


@dataclass(frozen=True)
class Sizes:
    """Of a scan.

    Attributes:
        grid: of the tokens.
        channels: d.
        states: n.
        order: makes the paths of a grid on a device.
        gated: with a gate, and an input per direction, as behind a causal convolution; else one input for all.
        head: P, channels of a head of Mamba-2's scan.
    """

    grid: tuple[int, ...]
    channels: int
    states: int
    order: Callable[..., Tensor]
    gated: bool = True
    head: int = 0

    def fitting(self, context: Context) -> Sizes:
        """Return these, or for a dry run a few tokens and heads or channels."""
        if not context.is_dry:
            return self
        channels = 2 * self.head if self.head else min(self.channels, 8)
        return replace(self, grid=tuple(min(edge, 2) for edge in self.grid), channels=channels)


def fitting(context: Context, sizes: dict[str, Sizes]) -> dict[str, Sizes]:
    """Return these as they fit the device, each once: in a dry run some are alike."""
    by_size: dict[Sizes, str] = {}
    for name, each in sizes.items():
        by_size.setdefault(each.fitting(context), name)
    return {name: each for each, name in by_size.items()}


# SegMamba at 128^3 and MedSegMamba's bottleneck at 96^3.
SCANS = {
    "SegMamba stage 1": Sizes((64, 64, 64), 96, 16, scan_order.tri_oriented),
    "SegMamba stage 2": Sizes((32, 32, 32), 192, 16, scan_order.tri_oriented),
    "SegMamba stage 3": Sizes((16, 16, 16), 384, 16, scan_order.tri_oriented),
    "SegMamba stage 4": Sizes((8, 8, 8), 768, 16, scan_order.tri_oriented),
    "MedSegMamba bottleneck": Sizes((12, 12, 12), 1024, 64, _ss3d, gated=False),
}
ODD_SCANS = {
    "ragged": Sizes((5, 7, 9), 45, 16, scan_order.tri_oriented),
    "five states": Sizes((4, 4, 4), 8, 5, scan_order.bidirectional, gated=False),
    "one token": Sizes((1, 1, 1), 3, 16, scan_order.unidirectional, gated=False),
    "256 states": Sizes((4, 4, 4), 8, 256, scan_order.unidirectional, gated=False),
}
# The same with Mamba-2's layers, one with more states, and U-Mamba2's layer.
SSDS = {
    "SegMamba stage 1": Sizes((64, 64, 64), 96, 16, scan_order.tri_oriented, head=48),
    "SegMamba stage 1, 64 states": Sizes((64, 64, 64), 96, 64, scan_order.tri_oriented, head=48),
    "SegMamba stage 2": Sizes((32, 32, 32), 192, 16, scan_order.tri_oriented, head=64),
    "SegMamba stage 3": Sizes((16, 16, 16), 384, 16, scan_order.tri_oriented, head=64),
    "SegMamba stage 4": Sizes((8, 8, 8), 768, 16, scan_order.tri_oriented, head=64),
    "MedSegMamba bottleneck": Sizes((12, 12, 12), 1024, 64, _ss3d, gated=False, head=64),
    "U-Mamba2, 12^3": Sizes((12, 12, 12), 640, 32, scan_order.unidirectional, head=80),
}
ODD_SSDS = {
    "ragged": Sizes((5, 7, 9), 45, 16, scan_order.tri_oriented, head=15),
    "five states": Sizes((4, 4, 4), 8, 5, scan_order.bidirectional, gated=False, head=4),
    "one token": Sizes((1, 1, 1), 3, 16, scan_order.unidirectional, gated=False, head=3),
    "200 states": Sizes((4, 4, 4), 8, 200, scan_order.unidirectional, gated=False, head=8),
}


def scan_inputs(context: Context, sizes: Sizes, dtype: torch.dtype, batch: int) -> Tensors:
    """The tensors of a scan as the networks make them, by argument; Mamba-2's where there is a size of heads."""
    torch.manual_seed(0)
    device = context.device
    paths = sizes.order(sizes.grid, device)
    (directions, length), d, n = paths.shape, sizes.channels, sizes.states
    heads = d // sizes.head if sizes.head else 0

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype).requires_grad_()

    per_channel = (directions, heads or d)
    weights = (1, n) if heads else (n,)  # one group of all heads
    rates = torch.arange(1.0, n + 1, device=device).expand(directions, d, n)
    if heads:
        rates = torch.linspace(1, 16, heads, device=device).expand(directions, heads)
    steps = torch.empty(per_channel, device=device).uniform_(-6.9, -2.3).exp_()  # Mamba's 0.001 to 0.1
    return {
        "u": randn(batch, directions, length, d) if sizes.gated else randn(batch, length, d),
        "delta": randn(batch, directions, length, heads or d),
        "A": -rates.contiguous().requires_grad_(),
        "B": randn(batch, directions, length, *weights),
        "C": randn(batch, directions, length, *weights),
        "paths": paths,
        "D": torch.ones(per_channel, device=device, requires_grad=True),
        "delta_bias": (steps + torch.log(-torch.expm1(-steps))).requires_grad_(),
        "z": randn(batch, length, d) if sizes.gated else None,
    }


def convolution_inputs(
    context: Context,
    grid: tuple[int, ...],
    channels: int,
    dtype: torch.dtype,
    batch: int,
    shared: bool = True,
    order: Callable[..., Tensor] = scan_order.tri_oriented,
) -> Tensors:
    """The tensors of a convolution: the first half of a projection's channels, weights of four taps in fp32."""
    torch.manual_seed(0)
    device = context.device
    paths = order(grid, device)
    directions, length = paths.shape
    rows = (batch, length) if shared else (batch, directions, length)
    projected = torch.randn(*rows, 2 * channels, device=device).to(dtype)
    return {
        "x": projected[..., :channels].requires_grad_(),
        "weight": torch.randn(directions, channels, 4, device=device, requires_grad=True),
        "bias": torch.randn(directions, channels, device=device, requires_grad=True),
        "paths": paths,
    }


def scan(tensors: Tensors, backend: str) -> Tensor:
    """Mamba's scan, or Mamba-2's where B has groups."""
    operator = directional_ssd if tensors["B"].ndim == 5 else directional_scan
    return operator(**tensors, delta_softplus=True, backend=backend)


def convolution(tensors: Tensors, backend: str) -> Tensor:
    """The causal convolution, with SiLU."""
    return causal_conv1d(**tensors, backend=backend)


def differentiable(tensors: Tensors) -> dict[str, Tensor]:
    """Return those that get a gradient."""
    return {name: t for name, t in tensors.items() if t is not None and t.is_floating_point()}


def with_gradients(
    operator: Callable[[Tensors, str], Tensor], tensors: Tensors, backend: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The result as "out" and the gradient of every tensor by its name.

    Args:
        dtype: in which the gradient of the result is representable, whatever the precision of the result.
    """
    out = operator(tensors, backend)
    given = differentiable(tensors)
    grad_out = torch.linspace(0, 1e4, out.numel(), dtype=torch.float64, device=out.device).cos().view_as(out)
    gradients = torch.autograd.grad(out, list(given.values()), grad_out.to(dtype).to(out.dtype))
    return {"out": out.detach(), **dict(zip(given, gradients, strict=True))}


def in_fp64(tensors: Tensors) -> Tensors:
    """The same values as new leaves in fp64."""
    leaves = {name: t.detach().double().requires_grad_() for name, t in differentiable(tensors).items()}
    return {**tensors, **leaves}
