"""The scan in plain torch operations: any device, no compiler, numerically safe.

A path is cut into chunks that are walked side by side, one token of each at a time, so that a step is a few vectorised
operations on a (batch, chunks, n, d) state that fits a cache. Forward: walk every chunk from a zero state to learn what
it adds, carry the states over the chunk ends, walk again from the true states. Backward: the same in reverse, from the
saved chunk states, recomputing one block of steps at a time, so that no tensor of L * d * n elements ever exists.
Decays are only ever multiplied: dividing by a cumulative product, or working in log space, fails for strong decays.

Every function takes plain tensors with validated shapes (see `ops/_directional_scan.py`) and knows nothing of autograd.
"""

from collections.abc import Iterable, Iterator
from math import isqrt

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from .torch_gradients import GradientSums, gate, of_direction

_STATE_ELEMENTS = 2**17  # state elements walked at once; 512 KiB in fp32
_SHORTEST_CHUNK = 64


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each chunk, (b, K, chunks, n, d)."""
    chunk_length = _chunk_length(batch, length, channels, state_size)
    return batch, directions, -(-length // chunk_length), state_size, channels


def scan_forward(scan: ScanArguments) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    batch, directions, length, channels = scan.delta.shape
    states = scan.A.new_empty(states_shape(batch, directions, length, channels, scan.A.shape[-1]))
    out = scan.A.new_zeros(batch, length, channels)
    for k in range(directions):
        path = _Path(scan, k)
        state = path.initial_states()
        states[:, k] = state
        for block in path.blocks():
            out[:, block.tokens] += block.valid(block.output(block.walk(state)))
    if scan.z is not None:
        gate(out, scan.z, out=out)
    return out.to(scan.u.dtype), states


def scan_backward(grad_out: Tensor, scan: ScanArguments, states: Tensor) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    sums = GradientSums(grad_out, scan)
    for k in range(scan.delta.shape[1]):
        path = _Path(scan, k)
        states_of_blocks = path.states_of_blocks(states[:, k])
        adjoint = path.final_adjoints(sums.ungated_output)
        dA_k = torch.zeros_like(adjoint)
        for block in path.blocks_backwards():
            g = block.gather(sums.ungated_output)
            state = states_of_blocks.pop()
            h = [state.clone(), *(after.clone() for after in block.walk(state))]
            dx, ddl, dB_block, dC_block = (torch.empty_like(v) for v in (block.x, block.dl, block.B, block.C))
            for t, decay in block.walk_backwards(adjoint, g):
                dC_block[:, :, t] = (h[t + 1] * g[:, :, t, None]).sum(-1)
                dB_block[:, :, t] = (adjoint * block.x[:, :, t, None]).sum(-1)
                dx[:, :, t] = (adjoint * block.B[:, :, t, :, None]).sum(-2)
                dexponent = adjoint * decay * h[t]
                ddl[:, :, t] = (dexponent * path.A).sum(-2)
                dA_k.addcmul_(dexponent, block.dl[:, :, t, None])
            ddl = block.valid(ddl.addcmul_(dx, block.u))
            if scan.delta_softplus:
                ddl *= torch.sigmoid(block.raw_delta)
            if sums.delta_bias is not None:
                sums.delta_bias[k] += ddl.sum((0, 1))
            du_block = dx * block.dl
            if scan.D is not None:
                du_block.addcmul_(scan.D[k], g)
                sums.D[k] += (g * block.u).sum((0, 1, 2))
            if scan.z is not None:
                sums.output[:, block.tokens] += block.valid(block.output(h[1:]))
            of_direction(sums.u, k)[:, block.tokens] += block.valid(du_block)
            sums.delta[:, k, block.tokens] = ddl.to(sums.delta.dtype)
            sums.B[:, k, block.tokens] = block.valid(dB_block).to(sums.B.dtype)
            sums.C[:, k, block.tokens] = block.valid(dC_block).to(sums.C.dtype)
        sums.A[k] = dA_k.sum((0, 1)).T
    return sums.result()


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool) -> Tensor:
    """The causal depthwise convolution along each path, (b, K, L, d) in x's dtype."""
    out = x.new_empty(x.shape[0], *paths.shape, x.shape[-1])
    for k, path in enumerate(paths.long()):
        y = _convolve(of_direction(x, k)[:, path].to(weight.dtype), weight[k], None if bias is None else bias[k])
        out[:, k, path] = (F.silu(y) if silu else y).to(out.dtype)
    return out


def conv_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, weight, bias), None where the input is None."""
    length, width = paths.shape[1], weight.shape[-1]
    dx = weight.new_zeros(x.shape)
    dweight = weight.new_empty(weight.shape)  # contiguous, as a compiler is told
    dbias = None if bias is None else bias.new_empty(bias.shape)
    for k, path in enumerate(paths.long()):
        x_k = of_direction(x, k)[:, path].to(weight.dtype)
        grad = grad_out[:, k, path].to(weight.dtype)
        if silu:
            y = _convolve(x_k, weight[k], None if bias is None else bias[k])
            grad = torch.ops.aten.silu_backward(grad, y)
        dx_k = torch.zeros_like(x_k)
        for tap in range(width):
            # A tap looks `lag` positions back; the first `lag` positions see zeros.
            lag = min(width - 1 - tap, length)
            dx_k[:, : length - lag] += weight[k, :, tap] * grad[:, lag:]
            dweight[k, :, tap] = (grad[:, lag:] * x_k[:, : length - lag]).sum((0, 1))
        if dbias is not None:
            dbias[k] = grad.sum((0, 1))
        of_direction(dx, k)[:, path] += dx_k
    return dx.to(x.dtype), dweight, dbias


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

    def __init__(self, scan: ScanArguments, k: int) -> None:
        self.u, self.delta, self.B, self.C = (of_direction(t, k) for t in (scan.u, scan.delta, scan.B, scan.C))
        self.A = scan.A[k].T.contiguous()  # (n, d): channels innermost, where the work vectorises
        self.D = None if scan.D is None else scan.D[k]
        self.delta_bias = None if scan.delta_bias is None else scan.delta_bias[k]
        self.delta_softplus = scan.delta_softplus
        self.tokens = scan.paths[k].long()
        batch, self.length, channels = self.u.shape
        self.chunk_length = _chunk_length(batch, self.length, channels, scan.A.shape[-1])
        self.state_shape = (batch, -(-self.length // self.chunk_length), *self.A.shape)
        # The backward keeps the state at the start of each block and at each step of one block.
        self.block_length = isqrt(self.chunk_length)
        self.block_starts = range(0, self.chunk_length, self.block_length)

    def blocks(self) -> Iterator["_Block"]:
        """The blocks from the chunks' first to their last."""
        return (_Block(self, start) for start in self.block_starts)

    def blocks_backwards(self) -> Iterator["_Block"]:
        """The blocks from the chunks' last to their first."""
        return (_Block(self, start) for start in reversed(self.block_starts))

    def initial_states(self) -> Tensor:
        """The state before each chunk, (b, chunks, n, d)."""
        state = self.A.new_zeros(self.state_shape)
        if state.shape[1] == 1:
            return state
        delta = self.A.new_zeros(state[:, :, :1].shape)
        for block in self.blocks():
            delta += block.dl.sum(2, keepdim=True)
            _exhaust(block.walk(state))
        return _carry(state, torch.exp(delta * self.A))

    def final_adjoints(self, grad_y: Tensor) -> Tensor:
        """The gradient of the state after each chunk from all that follows it, (b, chunks, n, d)."""
        adjoint = self.A.new_zeros(self.state_shape)
        if adjoint.shape[1] == 1:
            return adjoint
        delta = self.A.new_zeros(adjoint[:, :, :1].shape)
        for block in self.blocks_backwards():
            delta += block.dl.sum(2, keepdim=True)
            _exhaust(block.walk_backwards(adjoint, block.gather(grad_y)))
        return _carry(adjoint.flip(1), torch.exp(delta * self.A).flip(1)).flip(1)

    def states_of_blocks(self, initial: Tensor) -> list[Tensor]:
        """The state before each block, from the states before the chunks."""
        states = [initial.clone()]
        for start in self.block_starts[:-1]:
            states.append(states[-1].clone())
            _exhaust(_Block(self, start).walk(states[-1]))
        return states


class _Block:
    """Consecutive steps of every chunk: what the scan reads there, each (b, chunks, steps, d or n).

    Only the last chunk can end early. Its missing steps leave the state alone: their delta is zero.
    """

    def __init__(self, path: _Path, start: int) -> None:
        self.path = path
        chunks, stop = path.state_shape[1], min(start + path.block_length, path.chunk_length)
        self.steps = stop - start
        last_chunk = path.length - (chunks - 1) * path.chunk_length
        self.padding = stop - max(start, min(stop, last_chunk))
        positions = torch.arange(chunks)[:, None] * path.chunk_length + torch.arange(start, stop)
        positions = positions.flatten()[: chunks * self.steps - self.padding]
        self.tokens = path.tokens[positions.to(path.tokens.device)]

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

    def walk(self, state: Tensor) -> Iterator[Tensor]:
        """Advance `state` in place, and yield it after each step."""
        for t in range(self.steps):
            yield state.mul_(self._decay(t)).addcmul_(self.x[:, :, t, None], self.B[:, :, t, :, None])

    def walk_backwards(self, adjoint: Tensor, grad_y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take `adjoint` in place from after the block to before it, and yield each step with its decay.

        While a step is yielded, `adjoint` is the gradient of the state after that step.
        """
        for t in reversed(range(self.steps)):
            decay = self._decay(t)
            adjoint.addcmul_(self.C[:, :, t, :, None], grad_y[:, :, t, None])
            yield t, decay
            adjoint.mul_(decay)

    def _decay(self, t: int) -> Tensor:
        return torch.exp(self.dl[:, :, t, None] * self.path.A)

    def output(self, states: Iterable[Tensor]) -> Tensor:
        """C h + D u from the state after each step."""
        y = torch.stack([(h * self.C[:, :, t, :, None]).sum(-2) for t, h in enumerate(states)], dim=2)
        return y if self.path.D is None else y.addcmul_(self.path.D, self.u)


def _exhaust(walk: Iterator) -> None:
    for _ in walk:
        pass


def _carry(added: Tensor, decay: Tensor) -> Tensor:
    """The state before each chunk, from what each chunk adds to a zero state and leaves of another."""
    initial = torch.zeros_like(added)
    for c in range(1, added.shape[1]):
        state = initial[:, c - 1]
        # The decay of a whole chunk overflows for a growing mode (A > 0), which must not touch a state still zero.
        initial[:, c] = added[:, c - 1] + torch.where(state == 0, state, decay[:, c - 1] * state)
    return initial
