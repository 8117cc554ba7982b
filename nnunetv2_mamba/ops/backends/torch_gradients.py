"""What the backends in torch share: where gradients are summed over the directions, and what the gate does to them."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients

_ROWS = 8192


class GradientSums:
    """The gradients of a scan while its directions are walked.

    Attributes:
        ungated_output: of what the gate multiplies, (b, L, d).
        u, A, D, delta_bias: of the directions walked so far, of a shared u their sum, in A's dtype; None where the scan
            has none.
        delta, B, C: of the directions walked so far, in their own dtype.
        output: the sum of the ungated outputs, which the gradient of the gate needs; None without a gate.
    """

    def __init__(self, grad_out: Tensor, scan: ScanArguments) -> None:
        self._scan, self._grad_out = scan, grad_out
        # Not empty_like, which keeps an order of the axes: a compiler is told that all gradients are contiguous.
        self.u, self.A = scan.A.new_zeros(scan.u.shape), scan.A.new_zeros(scan.A.shape)
        self.delta, self.B, self.C = (t.new_empty(t.shape) for t in (scan.delta, scan.B, scan.C))
        self.D = None if scan.D is None else scan.D.new_zeros(scan.D.shape)
        self.delta_bias = None if scan.delta_bias is None else scan.delta_bias.new_zeros(scan.delta_bias.shape)
        self.ungated_output, self.output = grad_out, None
        if scan.z is None:
            self.ungated_output = grad_out.to(scan.A.dtype)
        else:
            self.output = scan.A.new_zeros(grad_out.shape)
            self.ungated_output = scan.A.new_empty(grad_out.shape)
            gate(grad_out, scan.z, out=self.ungated_output)

    def result(self) -> ScanGradients:
        """The gradients, once all directions are walked."""
        dz = None
        if self.output is not None:
            for rows, grad, z in _rows_of(self.output, self._grad_out, self._scan.z):
                rows.copy_(torch.ops.aten.silu_backward(rows * grad, z.to(rows.dtype)))
            dz = self.output.to(self._scan.z.dtype)
        du = self.u.to(self._scan.u.dtype)
        return ScanGradients(du, self.delta, self.A, self.B, self.C, self.D, self.delta_bias, dz)


def gate(t: Tensor, z: Tensor, out: Tensor) -> None:
    """Write t * silu(z) into `out`, all (b, L, d), computed in the dtype of `out`, which may be t."""
    for gated, rows, z_rows in _rows_of(out, t, z):
        torch.mul(rows, F.silu(z_rows.to(out.dtype)), out=gated)


def _rows_of(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Some rows after the other of tensors (b, L, m): what is computed of all at once needs memory for all."""
    return zip(*(t.split(_ROWS, 1) for t in tensors), strict=True)


def of_direction(t: Tensor, k: int) -> Tensor:
    """(b, L, m) of direction k, from (b, K, L, m) or from what all directions share."""
    return t if t.ndim == 3 else t[:, k]
