"""The scan in plain torch operations: any device, no compiler, numerically safe.

A path is cut into chunks that are walked side by side, one token of each at a time, so that a step is a few vectorised
operations on a (batch, chunks, n, d) state that fits a cache. Forward: walk every chunk from a zero state to learn what
it adds, carry the states over the chunk ends, walk again from the true states. Backward: the same in reverse, from the
saved chunk states, recomputing one block of steps at a time, so that no tensor of L * d * n elements ever exists.
Decays are only ever multiplied: dividing by a cumulative product, or working in log space, fails for strong decays.

Every function takes plain tensors with validated shapes (see `ops/directional_scan.py`) and knows nothing of autograd.
"""

from collections.abc import Iterator
from math import isqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

_STATE_ELEMENTS = 2**17  # state elements walked at once; 512 KiB in fp32
_SHORTEST_CHUNK = 64


def available() -> str | None:
    """None: torch is always there."""
    return None


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each chunk, (b, K, chunks, n, d)."""
    chunk_length = _chunk_length(batch, length, channels, state_size)
    return batch, directions, -(-length // chunk_length), state_size, channels


def scan_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    paths: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    z: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    batch, directions, length, channels = delta.shape
    states = A.new_empty(states_shape(batch, directions, length, channels, A.shape[-1]))
    out = A.new_zeros(batch, length, channels)
    for k in range(directions):
        path = _Path(k, u, delta, A, B, C, paths, delta_bias, delta_softplus)
        states[:, k] = path.initial_states()
        state = states[:, k].clone()
        for block in path.blocks():
            y = torch.zeros_like(block.u) if D is None else D[k] * block.u
            for t in block.walk(state):
                y[:, :, t] += (state * block.C[:, :, t, :, None]).sum(-2)
            out[:, block.tokens] += block.valid(y)
    if z is not None:
        out *= F.silu(z.to(out.dtype))
    return out.to(u.dtype), states


def scan_backward(
    grad_out: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    paths: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    z: Tensor | None,
    states: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of (u, delta, A, B, C, D, delta_bias, z), None where the input is None."""
    grad_y = grad_out.to(A.dtype)
    if z is not None:
        gate = z.to(A.dtype)
        ungated = A.new_zeros(grad_out.shape)
        grad_y = grad_y * F.silu(gate)
    du = A.new_zeros(u.shape)
    ddelta, dB, dC = (t.new_empty(t.shape) for t in (delta, B, C))
    dA = torch.zeros_like(A)
    dD = None if D is None else torch.zeros_like(D)
    ddelta_bias = None if delta_bias is None else torch.zeros_like(delta_bias)

    for k in range(delta.shape[1]):
        path = _Path(k, u, delta, A, B, C, paths, delta_bias, delta_softplus)
        du_k = du if u.ndim == 3 else du[:, k]
        adjoint = path.final_adjoints(grad_y)
        dA_k = torch.zeros_like(adjoint)
        for block, state in path.blocks_backwards(states[:, k]):
            g = block.gather(grad_y)
            h = [state.clone(), *(state.clone() for _ in block.walk(state))]
            dx, dexponent, dB_block, dC_block = (torch.empty_like(v) for v in (block.x, block.x, block.B, block.C))
            for t, decay in block.walk_backwards(adjoint, g):
                dC_block[:, :, t] = (h[t + 1] * g[:, :, t, None]).sum(-1)
                dB_block[:, :, t] = (adjoint * block.x[:, :, t, None]).sum(-1)
                dx[:, :, t] = (adjoint * block.B[:, :, t, :, None]).sum(-2)
                ddecay = adjoint * decay * h[t]
                dexponent[:, :, t] = (ddecay * path.A).sum(-2)
                dA_k.addcmul_(ddecay, block.dl[:, :, t, None])
            ddl = block.valid(dexponent + dx * block.u)
            if delta_softplus:
                ddl *= torch.sigmoid(block.raw_delta)
            du_block = dx * block.dl
            if D is not None:
                du_block += D[k] * g
                dD[k] += (g * block.u).sum((0, 1, 2))
            if delta_bias is not None:
                ddelta_bias[k] += ddl.sum((0, 1))
            if z is not None:
                ungated[:, block.tokens] += block.valid(block.output(h[1:], D))
            du_k[:, block.tokens] += block.valid(du_block)
            ddelta[:, k, block.tokens] = ddl.to(ddelta.dtype)
            dB[:, k, block.tokens] = block.valid(dB_block).to(dB.dtype)
            dC[:, k, block.tokens] = block.valid(dC_block).to(dC.dtype)
        dA[k] = dA_k.sum((0, 1)).T

    dz = None
    if z is not None:
        sigmoid = torch.sigmoid(gate)
        dz = (grad_out * ungated * sigmoid * (1 + gate * (1 - sigmoid))).to(z.dtype)
    return du.to(u.dtype), ddelta, dA, dB, dC, dD, ddelta_bias, dz


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool) -> Tensor:
    """The causal depthwise convolution along each path, (b, K, L, d) in x's dtype."""
    out = x.new_empty(x.shape[0], *paths.shape, x.shape[-1])
    for k, path in enumerate(paths.long()):
        y = _convolve(_along(x, k, path, weight), weight[k], None if bias is None else bias[k])
        out[:, k, path] = (F.silu(y) if silu else y).to(out.dtype)
    return out


def conv_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, weight, bias), None where the input is None."""
    length, width = paths.shape[1], weight.shape[-1]
    dx = weight.new_zeros(x.shape)
    dweight = torch.empty_like(weight)
    dbias = None if bias is None else torch.empty_like(bias)
    for k, path in enumerate(paths.long()):
        x_k = _along(x, k, path, weight)
        grad = grad_out[:, k, path].to(weight.dtype)
        if silu:
            y = _convolve(x_k, weight[k], None if bias is None else bias[k])
            sigmoid = torch.sigmoid(y)
            grad = grad * sigmoid * (1 + y * (1 - sigmoid))
        dx_k = torch.zeros_like(x_k)
        for tap in range(width):
            # A tap looks `lag` positions back; the first `lag` positions see zeros.
            lag = min(width - 1 - tap, length)
            dx_k[:, : length - lag] += weight[k, :, tap] * grad[:, lag:]
            dweight[k, :, tap] = (grad[:, lag:] * x_k[:, : length - lag]).sum((0, 1))
        if dbias is not None:
            dbias[k] = grad.sum((0, 1))
        (dx if x.ndim == 3 else dx[:, k])[:, path] += dx_k
    return dx.to(x.dtype), dweight, dbias


def _along(x: Tensor, k: int, path: Tensor, like: Tensor) -> Tensor:
    return (x if x.ndim == 3 else x[:, k])[:, path].to(like.dtype)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Causal depthwise convolution of (b, L, d) with (d, w)."""
    length, width = x.shape[1], weight.shape[-1]
    y = torch.zeros_like(x) if bias is None else bias.expand_as(x).clone()
    for tap in range(width):
        lag = min(width - 1 - tap, length)
        y[:, lag:] += weight[:, tap] * x[:, : length - lag]
    return y


def _chunk_length(batch: int, length: int, channels: int, state_size: int) -> int:
    """Tokens of a chunk: as many chunks as fit the cache, but none shorter than the walk over all of them is worth."""
    # sym_min and sym_max: the arguments may be symbols while a graph is traced.
    cached = torch.sym_max(1, _STATE_ELEMENTS // torch.sym_max(1, batch * channels * state_size))
    chunks = torch.sym_min(cached, -(-length // _SHORTEST_CHUNK))
    return -(-length // chunks)


class _Path:
    """One direction, cut into chunks that are walked side by side, a block of steps at a time."""

    def __init__(
        self,
        k: int,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        paths: Tensor,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.u = u if u.ndim == 3 else u[:, k]
        self.delta, self.B, self.C = delta[:, k], B[:, k], C[:, k]
        self.A = A[k].T.contiguous()  # (n, d): channels innermost, where the work vectorises
        self.delta_bias = None if delta_bias is None else delta_bias[k]
        self.delta_softplus = delta_softplus
        self.k = k
        self.tokens = paths[k].long()
        batch, self.length, channels = self.u.shape
        self.chunk_length = _chunk_length(batch, self.length, channels, A.shape[-1])
        self.state_shape = (batch, -(-self.length // self.chunk_length), *self.A.shape)
        # The backward keeps the state at each block's start and at each step of one block.
        self.block_length = isqrt(self.chunk_length)

    def initial_states(self) -> Tensor:
        """The state before each chunk, (b, chunks, n, d)."""
        state = self.A.new_zeros(self.state_shape)
        chunks = state.shape[1]
        if chunks == 1:
            return state
        total_delta = self.A.new_zeros(state.shape[0], chunks, 1, state.shape[-1])
        for block in self.blocks():
            total_delta += block.dl.sum(2).unsqueeze(2)
            for _ in block.walk(state):
                pass
        added, decay = state, torch.exp(total_delta * self.A)
        initial = torch.zeros_like(state)
        for c in range(1, chunks):
            initial[:, c] = added[:, c - 1] + _decayed(initial[:, c - 1], decay[:, c - 1])
        return initial

    def final_adjoints(self, grad_y: Tensor) -> Tensor:
        """The gradient of the state after each chunk, (b, chunks, n, d)."""
        adjoint = self.A.new_zeros(self.state_shape)
        chunks = adjoint.shape[1]
        if chunks == 1:
            return adjoint
        total_delta = self.A.new_zeros(adjoint.shape[0], chunks, 1, adjoint.shape[-1])
        for block in reversed(list(self.blocks())):
            total_delta += block.dl.sum(2).unsqueeze(2)
            for _ in block.walk_backwards(adjoint, block.gather(grad_y)):
                pass
        added, decay = adjoint, torch.exp(total_delta * self.A)
        final = torch.zeros_like(adjoint)
        for c in range(chunks - 2, -1, -1):
            final[:, c] = added[:, c + 1] + _decayed(final[:, c + 1], decay[:, c + 1])
        return final

    def blocks(self) -> Iterator["_Block"]:
        """The blocks of steps from the chunks' first to their last."""
        for start in range(0, self.chunk_length, self.block_length):
            yield _Block(self, start)

    def blocks_backwards(self, initial: Tensor) -> Iterator[tuple["_Block", Tensor]]:
        """The blocks from the chunks' last to their first, each with the state before it."""
        starts = [initial.clone()]
        for block in self.blocks():
            starts.append(starts[-1].clone())
            for _ in block.walk(starts[-1]):
                pass
        starts.pop()
        for start in reversed(range(0, self.chunk_length, self.block_length)):
            yield _Block(self, start), starts.pop()


class _Block:
    """Consecutive steps of every chunk: what the scan reads there, each (b, chunks, steps, d or n).

    Only the last chunk can end early. Its missing steps leave the state alone: their delta is zero.
    """

    def __init__(self, path: _Path, start: int) -> None:
        self.path = path
        chunks, stop = path.state_shape[1], min(start + path.block_length, path.chunk_length)
        self.steps = stop - start
        positions = torch.arange(chunks, device=path.tokens.device)[:, None] * path.chunk_length
        positions = (positions + torch.arange(start, stop, device=path.tokens.device)).reshape(-1)
        last_chunk = path.length - (chunks - 1) * path.chunk_length
        self.padding = stop - max(start, min(stop, last_chunk))
        self.tokens = path.tokens[positions[: len(positions) - self.padding]]

        delta = path.delta[:, self.tokens].to(path.A.dtype)
        self.raw_delta = delta if path.delta_bias is None else delta + path.delta_bias
        self.dl = self._split(F.softplus(self.raw_delta) if path.delta_softplus else self.raw_delta)
        self.u, self.B, self.C = (self.gather(t) for t in (path.u, path.B, path.C))
        self.x = self.dl * self.u

    def gather(self, t: Tensor) -> Tensor:
        """The rows of `t` (b, L, m) that the block visits, as (b, chunks, steps, m)."""
        return self._split(t[:, self.tokens].to(self.path.A.dtype))

    def valid(self, t: Tensor) -> Tensor:
        """`t` (b, chunks, steps, m) as (b, tokens, m), in the order of `tokens`."""
        return t.flatten(1, 2)[:, : len(self.tokens)]

    def _split(self, rows: Tensor) -> Tensor:
        return F.pad(rows, (0, 0, 0, self.padding)).unflatten(1, (-1, self.steps))

    def walk(self, state: Tensor) -> Iterator[int]:
        """Advance `state` in place, step by step."""
        for t in range(self.steps):
            state.mul_(self.decay(t)).addcmul_(self.x[:, :, t, None], self.B[:, :, t, :, None])
            yield t

    def walk_backwards(self, adjoint: Tensor, grad_y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take `adjoint` in place from after the block to before it; yields each step and its decay.

        While a step is yielded, `adjoint` is the gradient of the state after that step.
        """
        for t in reversed(range(self.steps)):
            decay = self.decay(t)
            adjoint.addcmul_(self.C[:, :, t, :, None], grad_y[:, :, t, None])
            yield t, decay
            adjoint.mul_(decay)

    def decay(self, t: int) -> Tensor:
        return torch.exp(self.dl[:, :, t, None] * self.path.A)

    def output(self, states: list[Tensor], D: Tensor | None) -> Tensor:
        """C h + D u from the state after each step."""
        y = torch.stack([(h * self.C[:, :, t, :, None]).sum(-2) for t, h in enumerate(states)], dim=2)
        return y if D is None else y + D[self.path.k] * self.u


def _decayed(state: Tensor, decay: Tensor) -> Tensor:
    # The decay of a whole chunk overflows for a growing mode (A > 0); that must not touch a state that is still zero.
    return torch.where(state == 0, state, decay * state)
