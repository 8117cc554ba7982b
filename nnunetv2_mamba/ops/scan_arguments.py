"""What a scan is given, as one record: the face, the custom operators and every backend pass it on whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ScanArguments(NamedTuple):
    """The arguments of `directional_scan` but for the backend, in the order of the custom operators.

    Those of `directional_ssd` have heads in place of channels where they tell of decays, and no states there: delta is
    (b, K, L, H), A, D and delta_bias are (K, H), B and C (b, K, L, G, n).

    Attributes:
        u: Input, (b, L, d), shared by all directions, or (b, K, L, d).
        delta: Step size before bias and softplus, (b, K, L, d).
        A: Decay rates, (K, d, n).
        B: Input weights, (b, K, L, n).
        C: Output weights, (b, K, L, n).
        paths: int32 (K, L), each row a permutation of 0 ... L-1.
        D: Weight of the input in the output, (K, d).
        delta_bias: Added to delta, (K, d).
        delta_softplus: Whether softplus is applied to delta.
        z: Gate, (b, L, d).
    """

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    paths: Tensor
    D: Tensor | None = None
    delta_bias: Tensor | None = None
    delta_softplus: bool = False
    z: Tensor | None = None

    def differentiable(self) -> tuple[Tensor | None, ...]:
        """(u, delta, A, B, C, D, delta_bias, z): what has a gradient, in the order of `ScanGradients`."""
        return self.u, self.delta, self.A, self.B, self.C, self.D, self.delta_bias, self.z

    def in_dtype(self, dtype: torch.dtype) -> ScanArguments:
        """With A, D and delta_bias in `dtype`, which is fp32 or fp64, and all in fp64 where it is that."""

        def cast(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(dtype)

        u, delta, B, C, z = self.u, self.delta, self.B, self.C, self.z
        if dtype == torch.float64:
            u, delta, B, C, z = cast(u), cast(delta), cast(B), cast(C), cast(z)
        A, D, delta_bias = cast(self.A), cast(self.D), cast(self.delta_bias)
        # Not by _replace, which torch.compile cannot trace on torch 2.6; nor could it annotations that are evaluated.
        return ScanArguments(u, delta, A, B, C, self.paths, D, delta_bias, self.delta_softplus, z)

    def rows_contiguous(self) -> ScanArguments:
        """With a stride of 1 along the rows of every tensor."""
        return ScanArguments(*(rows_contiguous(value) if isinstance(value, Tensor) else value for value in self))


class ScanGradients(NamedTuple):
    """Gradients of what `ScanArguments.differentiable` gives; None where that is None."""

    u: Tensor | None
    delta: Tensor | None
    A: Tensor | None
    B: Tensor | None
    C: Tensor | None
    D: Tensor | None
    delta_bias: Tensor | None
    z: Tensor | None


def rows_contiguous(t: Tensor | None) -> Tensor | None:
    """`t` itself if its last axis has a stride of 1, otherwise a contiguous copy.

    Of what is per group, (b, K, L, G, n), all groups are the row.
    """
    if t is None:
        return None
    if t.ndim == 5:
        return rows_contiguous(t.flatten(3)).unflatten(3, t.shape[3:])
    return t if t.stride(-1) == 1 else t.contiguous()
