"""Mamba-2's scan in plain torch operations: matrix products over chunks, for any device that has those.

A path is cut into chunks. Within one, with the decay from token j to token i as a matrix per head, the scan is a masked
matrix product; from chunk to chunk a state is carried. Forward: what every chunk adds to the state, the carry, the
outputs. Backward: the same in reverse, from the saved states. Chunks are worked on a block at a time, so that the
matrices of a long path do not exist at once. Exponents are sums of decays, none of which is positive if A is not;
nothing is divided, and no two sums are subtracted.

Shapes: T tokens of a chunk, G groups of R heads of P channels, n states. Every function takes plain tensors with
validated shapes (see `ops/_directional_ssd.py`) and knows nothing of autograd. Source: Dao and Gu, "Transformers are
SSMs", section 6, the chunked algorithm.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients

_CHUNK = 64  # tokens
_MATRIX_ELEMENTS = 2**22  # of the decay matrices of a block; 16 MiB in fp32


def available() -> str | None:
    """None: torch is always there."""
    return None


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each chunk, (b, K, chunks, n, d)."""
    return batch, directions, -(-length // _CHUNK), state_size, channels


def scan_forward(scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    batch, directions, length = scan.delta.shape[:3]
    channels = scan.u.shape[-1]
    states = scan.A.new_empty(states_shape(batch, directions, length, channels, scan.B.shape[-1]))
    out = scan.A.new_zeros(batch, length, channels)
    for k in range(directions):
        state = 0
        for block in _blocks(scan, k):
            before = block.states(states)
            added = torch.einsum("bctgrp,bctgn->bcgnrp", block.x * block.to_end, block.B)
            for chunk in range(added.shape[1]):
                before[:, chunk] = state
                state = block.decay[:, chunk] * before[:, chunk] + added[:, chunk]
            out[:, block.tokens] += block.rows(block.output(before))
    if scan.z is not None:
        out *= F.silu(scan.z.to(out.dtype))
    return out.to(scan.u.dtype), states


def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    A, D, z = scan.A, scan.D, scan.z
    grad_y = grad_out.to(A.dtype)
    if z is not None:
        gate = z.to(A.dtype)
        ungated = A.new_zeros(grad_out.shape)
        grad_y = grad_y * F.silu(gate)
    du = A.new_zeros(scan.u.shape)
    ddelta, dB, dC = (t.new_empty(t.shape) for t in (scan.delta, scan.B, scan.C))
    dA = torch.zeros_like(A)
    dD = None if D is None else torch.zeros_like(D)
    ddelta_bias = None if scan.delta_bias is None else torch.zeros_like(scan.delta_bias)

    for k in range(scan.delta.shape[1]):
        adjoint = 0
        for block in _blocks(scan, k, backwards=True):
            before = block.states(states)
            g = block.gather(grad_y[:, block.tokens]).unflatten(-1, block.x.shape[-3:])
            g_from_start = g * block.from_start
            added = torch.einsum("bctgrp,bctgn->bcgnrp", g_from_start, block.C)
            after = torch.empty_like(before)
            for chunk in reversed(range(added.shape[1])):
                after[:, chunk] = adjoint
                adjoint = block.decay[:, chunk] * after[:, chunk] + added[:, chunk]

            weights = block.weights()
            dweights = torch.einsum("bcigrp,bcjgrp->bcgrij", g, block.x)
            y_carried = block.carried(before)
            dx_carried = block.to_end * torch.einsum("bctgn,bcgnrp->bctgrp", block.B, after)
            dx = torch.einsum("bcgrij,bcigrp->bcjgrp", weights, g) + dx_carried

            dproducts = (dweights * block.decays).sum(3)
            x_to_end = block.x * block.to_end
            dC_block = torch.einsum("bcgij,bcjgn->bcign", dproducts, block.B)
            dC_block += torch.einsum("bctgrp,bcgnrp->bctgn", g_from_start, before)
            dB_block = torch.einsum("bcgij,bcign->bcjgn", dproducts, block.C)
            dB_block += torch.einsum("bctgrp,bcgnrp->bctgn", x_to_end, after)

            # Of the exponents: that of token k decays all that goes from before it to it or later.
            across = (dweights * weights).flip(-2).cumsum(-2).flip(-2).tril(-1).sum(-1)
            across += (g * y_carried).sum(-1).permute(0, 1, 3, 4, 2).flip(-1).cumsum(-1).flip(-1)
            across[..., 1:] += (block.x * dx_carried).sum(-1).permute(0, 1, 3, 4, 2).cumsum(-1)[..., :-1]
            across += (block.decay * before * after).sum((3, 5))[..., None]
            dexponent = across.permute(0, 1, 4, 2, 3)

            dA[k] += (dexponent * block.dl).sum((0, 1, 2)).flatten()
            ddl = dexponent * block.A + (dx * block.u).sum(-1)
            if scan.delta_softplus:
                ddl *= torch.sigmoid(block.raw_delta)
            ddl = block.rows(ddl)
            if ddelta_bias is not None:
                ddelta_bias[k] += ddl.sum((0, 1))
            du_block = dx * block.dl[..., None]
            if D is not None:
                du_block += block.D * g
                dD[k] += (g * block.u).sum((0, 1, 2, 5)).flatten()
            if z is not None:
                ungated[:, block.tokens] += block.rows(block.output(before))
            _of_direction(du, k)[:, block.tokens] += block.rows(du_block)
            ddelta[:, k, block.tokens] = ddl.to(ddelta.dtype)
            dB[:, k, block.tokens] = block.rows(dB_block).view_as(dB[:, k, block.tokens]).to(dB.dtype)
            dC[:, k, block.tokens] = block.rows(dC_block).view_as(dC[:, k, block.tokens]).to(dC.dtype)

    dz = None
    if z is not None:
        dz = torch.ops.aten.silu_backward(ungated.mul_(grad_out), gate).to(z.dtype)
    return ScanGradients(du.to(scan.u.dtype), ddelta, dA, dB, dC, dD, ddelta_bias, dz)


def _of_direction(t: Tensor, k: int) -> Tensor:
    """(b, L, m) of direction k, from (b, K, L, m) or from what all directions share."""
    return t if t.ndim == 3 else t[:, k]


def _blocks(scan: ScanArguments, k: int, backwards: bool = False) -> Iterator["_Block"]:
    """Direction k from its first chunks to its last, or backwards, in as few blocks as `_MATRIX_ELEMENTS` allows."""
    batch, _, length, heads = scan.delta.shape
    chunks = max(1, _MATRIX_ELEMENTS // (batch * heads * _CHUNK**2))
    starts = range(0, -(-length // _CHUNK), chunks)
    for start in reversed(starts) if backwards else starts:
        yield _Block(scan, k, start, chunks)


class _Block:
    """Some chunks of one direction; what is beyond the path's end is zero.

    Attributes:
        tokens: of the block, in order.
        u, x: inputs, and times the step, (b, c, T, G, R, P).
        raw_delta, dl: the step before and after softplus, (b, c, T, G, R).
        B, C: (b, c, T, G, n).
        A, D: (G, R), and (G, R, 1) or None.
        decays: exp of the exponents summed over j < k <= i, zero for i < j, (b, c, G, R, T, T).
        from_start, to_end: decays from the state before the chunk to each token, and from there to the state after it,
            (b, c, T, G, R, 1).
        decay: of the whole chunk, (b, c, G, 1, R, 1).
    """

    def __init__(self, scan: ScanArguments, k: int, first_chunk: int, chunks: int) -> None:
        groups, heads = scan.B.shape[3], scan.delta.shape[-1]
        self.direction, self.first_chunk = k, first_chunk
        self.tokens = scan.paths[k, first_chunk * _CHUNK : (first_chunk + chunks) * _CHUNK].long()
        self.missing = -len(self.tokens) % _CHUNK
        by_head = (groups, heads // groups)
        self.A = scan.A[k].view(by_head)
        self.D = None if scan.D is None else scan.D[k].view(*by_head, 1)
        dtype = scan.A.dtype

        raw_delta = scan.delta[:, k, self.tokens].to(dtype)
        if scan.delta_bias is not None:
            raw_delta += scan.delta_bias[k]
        self.raw_delta = self.gather(raw_delta).unflatten(-1, by_head)
        dl = F.softplus(raw_delta) if scan.delta_softplus else raw_delta
        self.dl = self.gather(dl).unflatten(-1, by_head)
        self.u = self.gather(_of_direction(scan.u, k)[:, self.tokens].to(dtype)).unflatten(-1, (*by_head, -1))
        self.B, self.C = (self.gather(t[:, k, self.tokens].to(dtype).flatten(2)) for t in (scan.B, scan.C))
        self.B, self.C = (t.unflatten(-1, (groups, -1)) for t in (self.B, self.C))
        self.x = self.u * self.dl[..., None]

        exponents = (self.dl * self.A).permute(0, 1, 3, 4, 2)  # (b, c, G, R, T)
        between = exponents[..., None].expand(*exponents.shape, _CHUNK).tril(-1).cumsum_(-2)
        self.decays = between.exp_().tril_()
        after = F.pad(exponents[..., 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)
        up_to = exponents.cumsum(-1)
        self.from_start, self.to_end = (t.exp().permute(0, 1, 4, 2, 3)[..., None] for t in (up_to, after))
        self.decay = up_to[..., -1].exp()[:, :, :, None, :, None]

    def gather(self, t: Tensor) -> Tensor:
        """(b, tokens, m) as (b, c, T, m)."""
        return F.pad(t, (0, 0, 0, self.missing)).unflatten(1, (-1, _CHUNK))

    def rows(self, t: Tensor) -> Tensor:
        """(b, c, T, ...) as (b, tokens, m)."""
        t = t.flatten(3).flatten(1, 2)
        return t[:, : len(self.tokens)]

    def states(self, states: Tensor) -> Tensor:
        """The block's part of the saved states, a view (b, c, G, n, R, P)."""
        chunks = states[:, self.direction, self.first_chunk : self.first_chunk + self.dl.shape[1]]
        return chunks.view(*chunks.shape[:2], self.u.shape[3], self.B.shape[-1], *self.u.shape[4:])

    def weights(self) -> Tensor:
        """The matrix from the chunk's inputs to its outputs, (b, c, G, R, T, T)."""
        return self.decays * torch.einsum("bcign,bcjgn->bcgij", self.C, self.B)[:, :, :, None]

    def carried(self, before: Tensor) -> Tensor:
        """What the states before the chunks give to the outputs."""
        return self.from_start * torch.einsum("bctgn,bcgnrp->bctgrp", self.C, before)

    def output(self, before: Tensor) -> Tensor:
        """Ungated, (b, c, T, G, R, P)."""
        y = torch.einsum("bcgrij,bcjgrp->bcigrp", self.weights(), self.x) + self.carried(before)
        return y if self.D is None else y + self.D * self.u
