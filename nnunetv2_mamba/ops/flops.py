"""Floating-point operations of the package's own operators, which torch's counter does not know."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from . import causal_conv1d, directional_scan, directional_ssd

Shape = tuple[int, ...]


def flop_counter() -> FlopCounterMode:
    """PyTorch's counter, to be entered around what is counted; it knows the package's operators too.

    A multiplication and an addition count as two. Counted are convolutions, matrix products, attention, the scans
    and their causal convolution; norms, activations and other element-wise operations are not.
    """
    assert directional_scan and directional_ssd and causal_conv1d  # importing them registers the operators
    operators = torch.ops.nnunetv2_mamba
    formulas = {
        operators.directional_scan: scan_flops,
        operators.directional_ssd: ssd_flops,
        operators.causal_conv1d: convolution_flops,
    }
    return FlopCounterMode(display=False, custom_mapping=formulas)


def scan_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, paths: Shape, D: Shape | None, *_: Any, **__: Any):
    """Per token, direction and channel: 7 for each state (dl * A, exp, times h, dl*u * B, plus, times C, plus), one for
    dl * u, and two for D * u. Shapes as in ``ops.directional_scan``."""
    batch, directions, length, channels = delta
    return batch * directions * length * channels * (7 * A[-1] + 1 + (0 if D is None else 2))


def ssd_flops(u: Shape, delta: Shape, A: Shape, B: Shape, C: Shape, paths: Shape, D: Shape | None, *_: Any, **__: Any):
    """Of the recurrence: per token, direction and channel 5 for each state (times the decay, x * B, plus, times C,
    plus), one for dl * u, and two for D * u; two per head for the decay. A backend of chunks multiplies more, in matrix
    products. Shapes as in ``ops.directional_ssd``."""
    batch, directions, length, heads = delta
    per_channel = 5 * B[-1] + 1 + (0 if D is None else 2)
    return batch * directions * length * (u[-1] * per_channel + 2 * heads)


def convolution_flops(x: Shape, weight: Shape, *_: Any, out_shape: Shape, **__: Any) -> int:
    """Two per tap and output. Shapes as in ``ops.causal_conv1d``."""
    batch, directions, length, channels = out_shape
    return 2 * batch * directions * length * channels * weight[-1]
