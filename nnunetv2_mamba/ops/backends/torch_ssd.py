"""Mamba-2's scan in plain torch operations: matrix products over chunks, for any device that has those.

A path is cut into chunks. Within one, the scan of a head is a matrix product with the path's tokens: from token j to
token i the state decays, and C of i, B and the step of j are factors; D is on the diagonal. What chunks add to the
state is carried on in the same way, over groups of chunks, and from group to group. The state before each group is
saved; the backward pass computes those of its chunks again. Blocks of groups are worked on one after the other, so that
the matrices of a long path do not exist at once. Decays are multiplied, or their exponents added, never divided or
subtracted: where one token decays much and the others little, no digits would be left.

Shapes: c chunks of T tokens, G groups of R heads of P channels, n states. Within a block heads come first, so that the
products of all heads are one batch of matrices. Every function takes plain tensors with validated shapes (see
`ops/_directional_ssd.py`) and knows nothing of autograd. Source: Dao and Gu, "Transformers are SSMs", section 6, the
chunked algorithm.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from .torch_gradients import GradientSums, gate, of_direction

_GROUP = 16  # chunks at most, or groups that a loop carries the state over
# Of a block's matrices from token to token: on a CPU they stay in its cache, elsewhere every launch costs time.
_MATRIX_ELEMENTS, _MATRIX_ELEMENTS_ON_CPU = 2**23, 2**19  # 32 MiB and 2 MiB in fp32


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
            block.states(states).copy_(before[:, :, :, :: block.group_size].permute(2, 3, 4, 0, 1, 5).flatten(3))
            block.add_to(out, block.output(block.weights(keep_decays=False), before))
    if scan.z is not None:
        gate(out, scan.z, out=out)
    return out.to(scan.u.dtype), states


def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    sums = GradientSums(grad_out, scan)
    for k in range(scan.delta.shape[1]):
        adjoint = None
        for block in _blocks(scan, k, backwards=True):
            saved = block.states(states)[:, 0].unflatten(-1, (*block.A.shape, -1)).permute(2, 3, 0, 1, 4)
            before, _ = block.carry(block.added(), saved)
            g = block.gather(sums.ungated_output, *block.A.shape)
            after, adjoint = block.carry(block.C_from_start.mT @ g, adjoint, backwards=True)

            weights = block.weights(keep_decays=True)
            if scan.z is not None:
                block.add_to(sums.output, block.output(weights, before))
            du = weights.mT @ g
            block.add_to(of_direction(sums.u, k), _add_product(du, block.B_to_end, after))
            dweights = g @ block.u.mT
            if scan.D is not None:
                sums.D[k] += dweights.diagonal(dim1=-2, dim2=-1).sum((2, 3, 4)).flatten()

            dweights.mul_(block.decays)
            dproducts = (dweights * block.dl[..., None, :]).sum(1)
            dC_carried = (g @ before.mT).mul_(block.from_start)
            dB_carried = (block.u @ after.mT).mul_(block.to_end)  # for a step of 1
            dC = _add_product(dC_carried.sum(1), dproducts, block.B)
            dB = _add_product((dB_carried * block.dl[..., None]).sum(1), dproducts.mT, block.C)

            # What goes from token j to token i, from token j to the state after the chunk, both for a step of 1, and
            # from the state before the chunk to token i. The exponent of token k decays all that goes from before it to
            # it or later.
            to_tokens = dweights.mul_(block.products[:, None])
            to_end = dB_carried.mul_(block.B[:, None]).sum(-1)
            ddl = to_tokens.sum(-2).add_(to_end)
            across = F.pad(to_tokens.mul_(block.dl[..., None, :]).cumsum_(-1).tril_(-1).sum(-2)[..., :-1], (1, 0))
            across += dC_carried.mul_(block.C[:, None]).sum(-1).flip(-1).cumsum(-1).flip(-1)
            across[..., 1:] += to_end.mul_(block.dl).cumsum(-1)[..., :-1]
            through = (before * after).sum((-1, -2)) * block.chunk_exponents.exp()
            dexponents = across.add_(through[..., None])

            sums.A[k] += (dexponents * block.dl).sum((2, 3, 4)).flatten()
            ddl += dexponents.mul_(block.A[..., None, None, None])
            if scan.delta_softplus:
                ddl.mul_(torch.sigmoid(block.raw_delta))
            ddl = block.rows(ddl[..., None])
            if sums.delta_bias is not None:
                sums.delta_bias[k] += ddl.sum((0, 1))
            sums.delta[:, k].index_copy_(1, block.tokens, ddl.to(sums.delta.dtype))
            for gradient, of_block in ((sums.B, dB), (sums.C, dC)):
                rows = block.rows(of_block[:, None]).to(gradient.dtype)
                gradient[:, k].flatten(2).index_copy_(1, block.tokens, rows)
    return sums.result()


def _chunk_length(state_size: int) -> int:
    """Tokens of a chunk, a power of two: about as many as states, as every token costs T numbers and every chunk n."""
    return 16 if state_size <= 16 else 32 if state_size <= 32 else 64


def _blocks(scan: ScanArguments, k: int, backwards: bool = False) -> Iterator["_Block"]:
    """Direction k from its first chunks to its last, or backwards, in as few blocks as their matrices' size allows."""
    batch, _, length, heads = scan.delta.shape
    chunk = _chunk_length(scan.B.shape[-1])
    tokens = _GROUP * chunk
    elements = _MATRIX_ELEMENTS_ON_CPU if scan.u.device.type == "cpu" else _MATRIX_ELEMENTS
    groups = max(1, elements // (batch * heads * tokens * chunk))
    starts = range(0, length, groups * tokens)
    for start in reversed(starts) if backwards else starts:
        yield _Block(scan, k, start, groups * tokens)


class _Block:
    """Some groups of chunks of one direction; what is beyond the path's end is zero.

    Attributes:
        tokens: of the block, in order.
        u: (G, R, b, c, T, P).
        raw_delta, dl: the step before and after softplus, (G, R, b, c, T).
        B, C: (G, b, c, T, n).
        A, D: (G, R), D or None.
        chunk_exponents: of the decays of whole chunks, (G, R, b, c).
        decays: from each token j to each token i; zero for i < j, (G, R, b, c, T, T).
        products: of C of token i and B of token j, (G, b, c, T, T).
        from_start: decay from the state before the chunk to each token, (G, R, b, c, T, 1).
        to_end: decay from each token to the state after the chunk, (G, R, b, c, T, 1).
        C_from_start, B_to_end: C and B times these, B also times the step, (G, R, b, c, T, n).
    """

    def __init__(self, scan: ScanArguments, k: int, start: int, length: int) -> None:
        groups, heads = scan.B.shape[3], scan.delta.shape[-1]
        by_head = groups, heads // groups
        self.chunk_length = _chunk_length(scan.B.shape[-1])
        self.direction, self.first_group = k, start // (_GROUP * self.chunk_length)
        self.tokens = scan.paths[k, start : start + length].long()
        n_chunks = -(-len(self.tokens) // self.chunk_length)
        self.n_groups = -(-n_chunks // _GROUP)
        self.group_size = -(-n_chunks // self.n_groups)  # so that few chunks are empty
        self.A = scan.A[k].view(by_head)
        self.D = None if scan.D is None else scan.D[k].view(by_head)

        self.u = self.gather(of_direction(scan.u, k), *by_head)
        raw_delta = scan.delta[:, k].index_select(1, self.tokens).to(self.A.dtype)
        if scan.delta_bias is not None:
            raw_delta = raw_delta + scan.delta_bias[k]
        dl = F.softplus(raw_delta) if scan.delta_softplus else raw_delta
        self.raw_delta, self.dl = (self._chunks(t, *by_head)[..., 0] for t in (raw_delta, dl))
        self.B, self.C = (self.gather(t[:, k].flatten(2), groups) for t in (scan.B, scan.C))

        exponents = self.dl * self.A[..., None, None, None]
        self.chunk_exponents = exponents.sum(-1)
        self.decays, from_start, to_end = _products_between(exponents.exp())
        self.from_start, self.to_end = from_start[..., None], to_end[..., None]
        self.products = self.C @ self.B.mT
        self.C_from_start = self.C[:, None] * self.from_start
        self.B_to_end = self.B[:, None] * (self.to_end * self.dl[..., None])

    def gather(self, t: Tensor, *heads: int) -> Tensor:
        """The block's rows of (b, L, m), in order and in A's dtype, as (*heads, b, c, T, the rest of m)."""
        return self._chunks(t.index_select(1, self.tokens), *heads)

    def _chunks(self, t: Tensor, *heads: int) -> Tensor:
        """(b, tokens, m) as (*heads, b, c, T, the rest of m), contiguous and in A's dtype."""
        missing = self.n_groups * self.group_size * self.chunk_length - len(self.tokens)
        if missing:  # padding by nothing would copy
            t = F.pad(t, (0, 0, 0, missing))
        t = t.unflatten(1, (-1, self.chunk_length)).unflatten(-1, (*heads, -1))
        t = t.permute(*range(3, 3 + len(heads)), 0, 1, 2, -1)
        return torch.empty(t.shape, dtype=self.A.dtype, device=t.device).copy_(t)  # one pass

    def rows(self, t: Tensor) -> Tensor:
        """(heads..., b, c, T, m) as (b, tokens, heads * m)."""
        heads = range(t.ndim - 4)
        t = t.permute(-4, -3, -2, *heads, -1).flatten(3).flatten(1, 2)
        return t[:, : len(self.tokens)]

    def add_to(self, sums: Tensor, t: Tensor) -> None:
        """Add (G, R, b, c, T, P) to the block's rows of (b, L, d)."""
        for of_sample, rows in zip(sums, self.rows(t), strict=True):  # twice as fast as all at once
            of_sample.index_add_(0, self.tokens, rows)

    def states(self, states: Tensor) -> Tensor:
        """The block's part of the saved states, a view (b, groups of chunks, n, d)."""
        return states[:, self.direction, self.first_group : self.first_group + self.n_groups]

    def added(self) -> Tensor:
        """What each chunk adds to the state, (G, R, b, c, n, P)."""
        return self.B_to_end.mT @ self.u

    def weights(self, keep_decays: bool) -> Tensor:
        """The matrix from the chunk's inputs to its outputs, (G, R, b, c, T, T), in place of `decays` if not kept."""
        weights = torch.mul(self.decays, self.products[:, None], out=None if keep_decays else self.decays)
        weights.mul_(self.dl[..., None, :])
        if self.D is not None:
            weights.diagonal(dim1=-2, dim2=-1).add_(self.D[..., None, None, None])
        return weights

    def output(self, weights: Tensor, before: Tensor) -> Tensor:
        """Ungated, (G, R, b, c, T, P), from `weights` and the states before the chunks."""
        return _add_product(weights @ self.u, self.C_from_start, before)

    def carry(self, added: Tensor, state: Tensor | None, backwards: bool = False) -> tuple[Tensor, Tensor]:
        """Walk over the chunks, which decay the state and add to it.

        Args:
            added: by each chunk, (G, R, b, c, n, P).
            state: where the walk begins, (G, R, b, n, P); None for zero.
            backwards: from the last chunk to the first.

        Returns:
            The state that each chunk is given, as `added`, and the one that the last one gives.
        """
        state = torch.zeros_like(added[..., 0, :, :]) if state is None else state
        return _carry(self.chunk_exponents, added, state, self.n_groups, backwards)


def _carry(exponents: Tensor, added: Tensor, state: Tensor, groups: int, backwards: bool) -> tuple[Tensor, Tensor]:
    """As `_Block.carry`, of chunks in groups of equal size; many groups are carried over in groups themselves.

    Args:
        exponents: of the chunks' decays, (..., c).
    """
    exponents = exponents.unflatten(-1, (groups, -1))
    to_chunks, to_next = _carrying(exponents, backwards)  # of each group
    sources = added.unflatten(-3, (groups, -1)).flatten(-2)
    given_alone = to_chunks[..., 1:] @ sources  # were the state zero before each group
    given_to_next = (to_next[..., 1:] @ sources).squeeze(-2).unflatten(-1, state.shape[-2:])
    if groups > _GROUP:
        outer = -(-groups // _GROUP)
        missing = outer * -(-groups // outer) - groups  # chunks that leave the state as it is
        inner_exponents = F.pad(exponents.sum(-1), (0, missing))
        states, state = _carry(inner_exponents, F.pad(given_to_next, (0, 0, 0, 0, 0, missing)), state, outer, backwards)
        states = states[..., :groups, :, :]
    else:
        states = torch.empty_like(given_to_next)
        for group in reversed(range(groups)) if backwards else range(groups):
            states[..., group, :, :] = state
            state = torch.addcmul(given_to_next[..., group, :, :], to_next[..., group, :, :1], state)
    given = given_alone.addcmul_(to_chunks[..., :1], states.flatten(-2)[..., None, :])
    return given.flatten(-3, -2).unflatten(-1, state.shape[-2:]), state


def _carrying(exponents: Tensor, backwards: bool) -> tuple[Tensor, Tensor]:
    """How much of the state before a group and of what each of its chunks adds is in the state that each chunk is
    given, (..., groups, size, 1 + size), and in the one that the group gives, (..., groups, 1, 1 + size).

    Backwards the group is given the state behind it.

    Args:
        exponents: of the chunks' decays, (..., groups, size).
    """
    exponents = F.pad(exponents.flip(-1) if backwards else exponents, (1, 0))
    decays = exponents[..., None].expand(*exponents.shape, exponents.shape[-1]).tril(-1).cumsum_(-2)
    decays = decays.exp_().tril_()
    to_chunks, to_next = decays[..., :-1, :], decays[..., -1:, :]
    if backwards:
        to_chunks = torch.cat([to_chunks[..., :1], to_chunks[..., 1:].flip(-1)], -1).flip(-2)
        to_next = torch.cat([to_next[..., :1], to_next[..., 1:].flip(-1)], -1)
    return to_chunks, to_next


def _add_product(t: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Add the product of two stacks of matrices to a third, in place."""
    t.flatten(0, -3).baddbmm_(left.flatten(0, -3), right.flatten(0, -3))
    return t


def _products_between(decays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is left on the way from token to token, from the decay of each token, (..., T).

    Made for pairs of tokens, then of pairs, and so on: between two halves is the decay from each token to the end of
    its half, and from there to each token of the other.

    Returns:
        The product of the decays of j < k <= i, zero for i < j, (..., i, j); that of the decays up to each token,
        (..., T); and that of the decays behind it.
    """
    length = decays.shape[-1]
    between = decays.new_zeros(*decays.shape, length)
    between.diagonal(dim1=-2, dim2=-1).fill_(1)
    from_start, to_end = decays.clone(), torch.ones_like(decays)  # within a half
    size = 1
    while size < length:
        start, end = (t.unflatten(-1, (-1, 2, size)) for t in (from_start, to_end))
        quarters = between.unflatten(-1, (-1, 2 * size)).unflatten(-3, (-1, 2 * size))  # (..., pair, i, pair, j)
        of_pairs = quarters.diagonal(dim1=-4, dim2=-2).movedim(-1, -3)
        torch.mul(start[..., 1, :, None], end[..., 0, None, :], out=of_pairs[..., size:, :size])
        end[..., 0, :] *= start[..., 1, -1:]
        start[..., 1, :] *= start[..., 0, -1:]
        size *= 2
    return between, from_start, to_end
