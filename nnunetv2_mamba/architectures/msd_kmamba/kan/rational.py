"""Learned rational functions, shared by groups of channels (the activation of GR-KAN)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_mamba.architectures.blocks.half_precision import saturated
from nnunetv2_mamba.architectures.blocks.recompute import recomputed

GROUPS = 8
NUMERATOR_TERMS = 6  # a_0 ... a_5
DENOMINATOR_TERMS = 4  # b_1 ... b_4

# Starting coefficients (a_0 ... a_5), (b_1 ... b_4). The b of the identity are not 0: there torch takes the derivative
# of |b| as 0, so that they would stay for ever.
IDENTITY = ((0.0, 1.0, 0.0, 0.0, 0.0, 0.0), (1e-3, 1e-3, 1e-3, 1e-3))
# SiLU to 1e-4 on [-3, 3] and to 0.16 on [-10, 10]; Kolmogorov-Arnold Transformer's "swish", which unlike its "gelu" is
# fitted to this form of the denominator.
SILU = (
    (3.0549e-7, 0.50000079, 0.24999783, 0.05326628, 0.00580303, 0.00027520),
    (-4.1116e-6, 0.10652899, -1.2690e-6, 0.00055023),
)


class GroupRational(nn.Module):
    """``R(x) = (a_0 + a_1 x + ... + a_5 x^5) / (1 + |b_1| |x| + ... + |b_4| |x|^4)`` at every voxel.

    ``a`` is shared by all channels, every one of 8 groups of neighbouring channels has its own ``b`` (Yang & Wang,
    *Kolmogorov-Arnold Transformer*, ICLR 2025, section 4.2; the denominator as its GPU kernels compute it, never below
    1). Computed in fp32 whatever autocast says (fp64 for fp64 input) and returned in the input's dtype. The backward
    pass needs the input only. Coefficients are marked ``_no_weight_decay``, since decay would pull R to 0.

    Args:
        channels: width of the feature map, a multiple of 8.
        start: ``a`` and ``b`` at the start: ``IDENTITY`` or ``SILU``.

    Raises:
        ValueError: for other widths.
    """

    def __init__(self, channels: int, start: tuple[Sequence[float], Sequence[float]]):
        super().__init__()
        if channels % GROUPS:
            raise ValueError(
                f"kan='rational' works on {GROUPS} groups of channels: features_per_stage must be multiples of "
                f"{GROUPS}, got {channels}; or choose another kan"
            )
        numerator, denominator = start
        self.numerator = nn.Parameter(torch.tensor(numerator))
        self.denominator = nn.Parameter(torch.tensor(denominator).repeat(GROUPS, 1))
        for parameter in (self.numerator, self.denominator):
            parameter._no_weight_decay = True

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, channels, *grid)`` to the same shape."""
        with torch.autocast(x.device.type, enabled=False):
            if torch.compiler.is_dynamo_compiling():  # torch 2.11 makes wrong gradients of a Function in a graph
                return saturated(recomputed(rational, x, self.numerator, self.denominator))
            return saturated(_Rational.apply(x, self.numerator, self.denominator))


def rational(x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
    """Compute the function of :class:`GroupRational` in plain torch, ``a`` of shape (6,), ``b`` of shape (8, 4)."""
    v, a, b = _working_precision(x, numerator, denominator)
    return (_polynomial(a, v) / _denominator(b, v.abs())).to(x.dtype)


class _Rational(torch.autograd.Function):
    """Plain torch would keep the powers and both polynomials for the backward pass; this keeps its input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numerator: Tensor, denominator: Tensor) -> Tensor:
        ctx.save_for_backward(x, numerator, denominator)
        return rational(x, numerator, denominator)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, numerator, denominator = ctx.saved_tensors
        v, a, b = _working_precision(x, numerator, denominator)
        magnitude = v.abs()
        q = _denominator(b, magnitude)
        g_q = grad.to(v.dtype) / q
        g_p_qq = g_q * _polynomial(a, v) / q

        slope_q = _polynomial(_derivative(b), magnitude) * v.sign()
        grad_x = g_q * _polynomial(_derivative(a[1:]), v) - g_p_qq * slope_q

        everywhere, except_channels = tuple(range(x.ndim)), (0, *range(2, x.ndim))
        grad_a = torch.stack(_moments(g_q, v, NUMERATOR_TERMS, everywhere))
        per_channel = torch.stack(_moments(g_p_qq * magnitude, magnitude, DENOMINATOR_TERMS, except_channels), dim=1)
        grad_b = -per_channel.unflatten(0, (GROUPS, -1)).sum(1) * denominator.sign()
        return grad_x.to(x.dtype), grad_a.to(numerator.dtype), grad_b.to(denominator.dtype)


def _working_precision(x: Tensor, numerator: Tensor, denominator: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the input in at least fp32, ``a`` as scalars, and ``|b|`` for every channel, to be broadcast with it."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    magnitudes = denominator.abs().repeat_interleave(x.shape[1] // GROUPS, dim=0)
    magnitudes = magnitudes.to(dtype).view(x.shape[1], *(1,) * (x.ndim - 2), DENOMINATOR_TERMS)
    return x.to(dtype), list(numerator.to(dtype).unbind()), list(magnitudes.unbind(-1))


def _polynomial(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """Compute ``c_0 + c_1 x + c_2 x^2 + ...`` by Horner's scheme."""
    *rest, result = coefficients
    for coefficient in reversed(rest):
        result = torch.addcmul(coefficient, result, x)
    return result


def _denominator(b: Sequence[Tensor], magnitude: Tensor) -> Tensor:
    return _polynomial(b, magnitude) * magnitude + 1


def _derivative(coefficients: Sequence[Tensor]) -> list[Tensor]:
    """Return the coefficients of the derivative of ``c_1 x + c_2 x^2 + ...``, its constant first."""
    return [power * c for power, c in enumerate(coefficients, 1)]


def _moments(weight: Tensor, x: Tensor, powers: int, dims: Sequence[int]) -> list[Tensor]:
    """Return the sums over ``dims`` of ``weight * x^i`` for i = 0 ... powers - 1."""
    sums = []
    for power in range(powers):
        if power:
            weight = weight * x
        sums.append(weight.sum(dims))
    return sums
