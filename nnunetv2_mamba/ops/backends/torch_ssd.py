"""Mamba-2's scan in plain torch operations: matrix products over chunks, for any device that has those.

A path is cut into chunks. Within one, with the decay from token j to token i as a matrix per head, the scan is a masked
matrix product. What chunks add to the state is carried on in the same way, over groups of chunks, and from group to
group. The state before each group is saved; the backward pass computes those of its chunks again. Blocks of groups are
worked on one after the other, so that the matrices of a long path do not exist at once. Decays are multiplied, or their
exponents added, never divided or subtracted: where one token decays much and the others little, no digits would be
left.

Shapes: c chunks of T tokens, G groups of R heads of P channels, n states. Every function takes plain tensors with
validated shapes (see `ops/_directional_ssd.py`) and knows nothing of autograd. Source: Dao and Gu, "Transformers are
SSMs", section 6, the chunked algorithm.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from .torch_gradients import GradientSums, of_direction

_GROUP = 64  # chunks
_MATRIX_ELEMENTS = 2**20  # of a block's matrices from token to token; 4 MiB in fp32


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each group of chunks, (b, K, groups, n, d)."""
    return batch, directions, -(-length // (_GROUP * _chunk_length(state_size))), state_size, channels


def scan_forward(scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    batch, directions, length = scan.delta.shape[:3]
    channels = scan.u.shape[-1]
    states = scan.A.new_empty(states_shape(batch, directions, length, channels, scan.B.shape[-1]))
    out = scan.A.new_zeros(batch, length, channels)
    for k in range(directions):
        state = None
        for block in _blocks(scan, k):
            before, state = block.carry(block.added(), state)
            block.states(states).copy_(before[:, ::_GROUP])
            block.add_to(out, block.output(block.weights(), block.carried(before)))
    if scan.z is not None:
        out *= F.silu(scan.z.to(out.dtype))
    return out.to(scan.u.dtype), states


def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    sums = GradientSums(grad_out, scan)
    for k in range(scan.delta.shape[1]):
        adjoint = None
        for block in _blocks(scan, k, backwards=True):
            before, _ = block.carry(block.added(), block.states(states)[:, 0])
            g = block.gather(sums.ungated_output).unflatten(-1, block.x.shape[-3:])
            g_from_start = g * block.from_start
            added = torch.einsum("bctgrp,bctgn->bcgnrp", g_from_start, block.C)
            after, adjoint = block.carry(added, adjoint, backwards=True)

            weights = block.weights()
            dweights = torch.einsum("bcigrp,bcjgrp->bcgrij", g, block.x)
            y_carried = block.carried(before)
            dx_carried = torch.einsum("bctgn,bcgnrp->bctgrp", block.B, after).mul_(block.to_end)
            dx = torch.einsum("bcgrij,bcigrp->bcjgrp", weights, g).add_(dx_carried)

            dproducts = (dweights * block.decays).sum(3)
            dC_block = torch.einsum("bcgij,bcjgn->bcign", dproducts, block.B)
            dC_block += torch.einsum("bctgrp,bcgnrp->bctgn", g_from_start, before)
            dB_block = torch.einsum("bcgij,bcign->bcjgn", dproducts, block.C)
            dB_block += torch.einsum("bctgrp,bcgnrp->bctgn", block.x_to_end, after)

            # Of the exponents: that of token k decays all that goes from before it to it or later.
            across = F.pad(dweights.mul_(weights).cumsum(-1).tril_(-1).sum(-2)[..., :-1], (1, 0))
            across += (g * y_carried).sum(-1).permute(0, 1, 3, 4, 2).flip(-1).cumsum(-1).flip(-1)
            across[..., 1:] += (block.x * dx_carried).sum(-1).permute(0, 1, 3, 4, 2).cumsum(-1)[..., :-1]
            through = (before * after).sum((3, 5)) * block.chunk_exponents.exp()
            dexponent = (across + through[..., None]).permute(0, 1, 4, 2, 3)

            sums.A[k] += (dexponent * block.dl).sum((0, 1, 2)).flatten()
            ddl = dexponent * block.A + (dx * block.u).sum(-1)
            if scan.delta_softplus:
                ddl *= torch.sigmoid(block.raw_delta)
            ddl = block.rows(ddl)
            if sums.delta_bias is not None:
                sums.delta_bias[k] += ddl.sum((0, 1))
            if scan.z is not None:
                block.add_to(sums.output, block.output(weights, y_carried))
            du_block = dx.mul_(block.dl[..., None])
            if scan.D is not None:
                sums.D[k] += (g * block.u).sum((0, 1, 2, 5)).flatten()
                du_block.addcmul_(block.D, g)
            block.add_to(of_direction(sums.u, k), du_block)
            sums.delta[:, k].index_copy_(1, block.tokens, ddl.to(sums.delta.dtype))
            for gradient, of_block in ((sums.B, dB_block), (sums.C, dC_block)):
                gradient[:, k].flatten(2).index_copy_(1, block.tokens, block.rows(of_block).to(gradient.dtype))
    return sums.result()


def _chunk_length(state_size: int) -> int:
    """Tokens of a chunk, a power of two: few, because every token is paired with each; but states cost n numbers."""
    return 32 if state_size <= 32 else 64


def _blocks(scan: ScanArguments, k: int, backwards: bool = False) -> Iterator["_Block"]:
    """Direction k from its first chunks to its last, or backwards, in as few blocks as `_MATRIX_ELEMENTS` allows."""
    batch, _, length, heads = scan.delta.shape
    chunk = _chunk_length(scan.B.shape[-1])
    tokens = _GROUP * chunk
    groups = max(1, _MATRIX_ELEMENTS // (batch * heads * tokens * chunk))
    starts = range(0, length, groups * tokens)
    for start in reversed(starts) if backwards else starts:
        yield _Block(scan, k, start, groups * tokens)


class _Block:
    """Some groups of chunks of one direction; what is beyond the path's end is zero.

    Attributes:
        tokens: of the block, in order.
        u, x: inputs, and times the step, (b, c, T, G, R, P).
        raw_delta, dl: the step before and after softplus, (b, c, T, G, R).
        B, C: (b, c, T, G, n).
        A, D: (G, R), and (G, R, 1) or None.
        chunk_exponents: of the decays of whole chunks, (b, c, G, R).
        decays: from each token j to each token i, zero for i < j, (b, c, G, R, T, T).
        from_start, to_end: decays from the state before the chunk to each token, and from there to the state after it,
            (b, c, T, G, R, 1).
        x_to_end: x decayed so, (b, c, T, G, R, P).
    """

    def __init__(self, scan: ScanArguments, k: int, start: int, length: int) -> None:
        groups, heads = scan.B.shape[3], scan.delta.shape[-1]
        self.chunk_length = _chunk_length(scan.B.shape[-1])
        self.direction, self.first_group = k, start // (_GROUP * self.chunk_length)
        self.tokens = scan.paths[k, start : start + length].long()
        by_head = (groups, heads // groups)
        self.A = scan.A[k].view(by_head)
        self.D = None if scan.D is None else scan.D[k].view(*by_head, 1)
        dtype = scan.A.dtype

        raw_delta = scan.delta[:, k].index_select(1, self.tokens).to(dtype)
        if scan.delta_bias is not None:
            raw_delta = raw_delta + scan.delta_bias[k]
        self.raw_delta = self._chunks(raw_delta).unflatten(-1, by_head)
        dl = F.softplus(raw_delta) if scan.delta_softplus else raw_delta
        self.dl = self._chunks(dl).unflatten(-1, by_head)
        self.u = self.gather(of_direction(scan.u, k)).to(dtype).unflatten(-1, (*by_head, -1))
        self.B, self.C = (self.gather(t[:, k].flatten(2)).to(dtype) for t in (scan.B, scan.C))
        self.B, self.C = (t.unflatten(-1, (groups, -1)) for t in (self.B, self.C))
        self.x = self.u * self.dl[..., None]

        exponents = (self.dl * self.A).permute(0, 1, 3, 4, 2)  # (b, c, G, R, T)
        self.decays = _products_between(exponents.exp())
        to_end = F.pad(exponents[..., 1:], (0, 1)).flip(-1).cumsum(-1).flip(-1)
        from_start = exponents.cumsum(-1)
        self.from_start, self.to_end = (t.exp().permute(0, 1, 4, 2, 3)[..., None] for t in (from_start, to_end))
        self.x_to_end = self.x * self.to_end
        self.chunk_exponents = exponents.sum(-1)

    def gather(self, t: Tensor) -> Tensor:
        """The block's rows of (b, L, m), in order, as (b, c, T, m)."""
        return self._chunks(t.index_select(1, self.tokens))

    def _chunks(self, t: Tensor) -> Tensor:
        """(b, tokens, m) as (b, c, T, m)."""
        missing = -len(self.tokens) % self.chunk_length
        if missing:  # padding by nothing would copy
            t = F.pad(t, (0, 0, 0, missing))
        return t.unflatten(1, (-1, self.chunk_length))

    def add_to(self, sums: Tensor, t: Tensor) -> None:
        """Add (b, c, T, ...) to the block's rows of (b, L, m)."""
        for of_sample, rows in zip(sums, self.rows(t), strict=True):  # twice as fast as all at once
            of_sample.index_add_(0, self.tokens, rows)

    def rows(self, t: Tensor) -> Tensor:
        """(b, c, T, ...) as (b, tokens, m)."""
        return t.flatten(3).flatten(1, 2)[:, : len(self.tokens)]

    def states(self, states: Tensor) -> Tensor:
        """The block's part of the saved states, a view (b, groups of chunks, G, n, R, P)."""
        groups = -(-self.u.shape[1] // _GROUP)
        of_block = states[:, self.direction, self.first_group : self.first_group + groups]
        return of_block.view(*of_block.shape[:2], self.u.shape[3], self.B.shape[-1], *self.u.shape[4:])

    def added(self) -> Tensor:
        """What each chunk adds to the state, (b, c, G, n, R, P)."""
        return torch.einsum("bctgrp,bctgn->bcgnrp", self.x_to_end, self.B)

    def carry(self, added: Tensor, state: Tensor | None, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """Walk over the chunks, which decay the state and add to it.

        Args:
            added: by each chunk, (b, c, G, n, R, P).
            state: where the walk begins, (b, G, n, R, P); None for zero.
            backwards: from the last chunk to the first.

        Returns:
            The state that each chunk is given, as `added`, and the one that the last one gives.
        """
        given = torch.empty_like(added)
        state = torch.zeros_like(added[:, 0]) if state is None else state
        starts = range(0, added.shape[1], _GROUP)
        for start in reversed(starts) if backwards else starts:
            group = slice(start, start + _GROUP)
            exponents = self.chunk_exponents[:, group].permute(0, 2, 3, 1)  # (b, G, R, c)
            if backwards:
                exponents = exponents.flip(-1)
            between = exponents[..., None].expand(*exponents.shape, exponents.shape[-1]).tril(-1).cumsum_(-2)
            between = between.exp_().tril_()
            from_start = exponents.cumsum(-1).exp().permute(0, 3, 1, 2)[:, :, :, None, :, None]
            in_order = added[:, group].flip(1) if backwards else added[:, group]
            left = torch.einsum("bgrij,bjgnrp->bignrp", between, in_order).addcmul_(from_start, state[:, None])
            in_order = torch.cat([state[:, None], left[:, :-1]], dim=1)
            given[:, group] = in_order.flip(1) if backwards else in_order
            state = left[:, -1]
        return given, state

    def weights(self) -> Tensor:
        """The matrix from the chunk's inputs to its outputs, (b, c, G, R, T, T)."""
        return self.decays * torch.einsum("bcign,bcjgn->bcgij", self.C, self.B)[:, :, :, None]

    def carried(self, before: Tensor) -> Tensor:
        """What the states before the chunks give to the outputs, (b, c, T, G, R, P)."""
        return torch.einsum("bctgn,bcgnrp->bctgrp", self.C, before).mul_(self.from_start)

    def output(self, weights: Tensor, carried: Tensor) -> Tensor:
        """Ungated, (b, c, T, G, R, P)."""
        y = torch.einsum("bcgrij,bcjgrp->bcigrp", weights, self.x) + carried
        return y if self.D is None else y.addcmul_(self.D, self.u)


def _products_between(decays: Tensor) -> Tensor:
    """From the decay of each token, (..., T), that from token j to token i: the product over j < k <= i, (..., T, T).

    Zero for i < j. Made for pairs of tokens, then of pairs, and so on: what lies between two halves decays from each
    token to the end of its half and from there to each token of the other.
    """
    length = decays.shape[-1]
    between = torch.diag_embed(torch.ones_like(decays))
    from_start, to_end = decays, torch.ones_like(decays)  # within a half
    size = 1
    while size < length:
        halves = (*decays.shape[:-1], -1, 2, size)
        start, end = from_start.reshape(halves), to_end.reshape(halves)
        quarters = between.unflatten(-1, (-1, 2 * size)).unflatten(-3, (-1, 2 * size))  # (..., pair, i, pair, j)
        of_pairs = quarters.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        of_pairs[..., size:, :size] = start[..., 1, :, None] * end[..., 0, None, :]
        whole = start[..., -1:]
        from_start = torch.cat([start[..., 0, :], start[..., 1, :] * whole[..., 0, :]], -1).flatten(-2)
        to_end = torch.cat([end[..., 0, :] * whole[..., 1, :], end[..., 1, :]], -1).flatten(-2)
        size *= 2
    return between
