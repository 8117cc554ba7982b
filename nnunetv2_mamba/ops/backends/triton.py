"""The scan and the convolution as Triton kernels: CUDA tensors in fp16, bf16 or fp32, state and sums in fp32.

There are fewer channels than a GPU has lanes, so a path is cut into runs that are walked side by side, all directions
and sequences in one launch:

- forward: `run_end_kernel` learns what each run adds to a zero state, `carry_kernel` carries that over the runs to each
  run's initial state, `scan_kernel` walks again from there, writes y of each direction and saves a state per interval;
  then the directions are summed and gated, once.
- backward: the same in reverse (`run_adjoint_kernel`, `carry_kernel`), then `adjoint_kernel` makes the states between
  the saved ones again and writes all gradients, and on its way y of each direction, whose sum the gate's needs.

Each number has one writer: no atomics, the same bits every time. Decays are only ever multiplied. Every function takes
plain tensors with validated shapes (see `ops/_directional_scan.py`) and knows nothing of autograd.
"""

from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from ..scan_order.tables import inverse
from .triton_launch import (
    ALL_REGISTERS,
    Launch,
    ceil_div,
    compile_ahead,
    compile_scan,
    contiguous,
    dtype_of_parts,
    kind_of,
    launch_kernel,
    multiprocessors,
    of_kind,
    rows,
    sequences,
    sum_of_parts,
)

# One-warp programs per multiprocessor that are aimed at: forward some waves of them; backward those that run at a time,
# for each needs as many registers as a thread can have, and scratch memory for an interval.
_FORWARD_PROGRAMS, _BACKWARD_PROGRAMS = 128, 8
_WIDE_OFFSETS = 2**31  # where offsets within a sequence no longer fit in 32 bits
_BD = 32  # channels of a scan's tile: the lanes of a warp
_GRADIENT_BN = 16  # states of a tile of the kernel of the gradients, which holds five tiles; with 32 they would spill
_CARRIED_RUNS = 16  # runs that a program carries states over at a time
_KERNELS = "triton_kernels"
# Tokens by channels, for kernels without a recurrence; with fewer warps a thread's code is longer and compiles longer.
_TILE = {"BT": 64, "BD": _BD, "num_warps": 8, **ALL_REGISTERS}


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each interval, (b, K, slots, n, d)."""
    return batch, directions, ceil_div(length, _interval(state_size)), state_size, channels


def scan_forward(scan: ScanArguments, launch: Launch = launch_kernel) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    if launch is launch_kernel and scan.u.is_cuda:
        compile_scan(scan_forward, scan_backward, kind_of(scan), scan.u.is_inference(), scan.u.device)
    launches, z = _ScanLaunches(scan, launch), scan.z
    with torch.cuda.device_of(scan.u):
        states = launches.run_starts()
        parts = launches.outputs(states)
        if z is None:
            return sum_of_parts(parts, 1, parts.dtype), states
        out = torch.empty_like(parts[:, 0])
        launch(_KERNELS, "gate_kernel", _tiles(out), parts, z, out, *rows(z), parts.shape[1], *out.shape[1:], **_TILE)
    return out, states


def scan_backward(
    grad_out: Tensor, scan: ScanArguments, states: Tensor, launch: Launch = launch_kernel
) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    launches, z = _ScanLaunches(scan, launch), scan.z
    with torch.cuda.device_of(scan.u):
        if z is None:
            return ScanGradients(*launches.gradients(grad_out, states, None), None)
        g = grad_out.new_empty(grad_out.shape, dtype=dtype_of_parts(grad_out.dtype))
        launch(
            _KERNELS, "gate_kernel", _tiles(g), grad_out.contiguous(), z, g, *rows(z), 1, *g.shape[1:], **_TILE,
        )  # fmt: skip
        parts = launches.new_parts()
        gradients = launches.gradients(g, states, parts)
        del g
        dz = torch.empty_like(z, memory_format=torch.contiguous_format)
        launch(
            _KERNELS, "gate_backward_kernel", _tiles(dz), parts, z, grad_out, dz, *rows(z), *rows(grad_out),
            parts.shape[1], *dz.shape[1:], **_TILE,
        )  # fmt: skip
        return ScanGradients(*gradients, dz)


def conv_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, paths: Tensor, silu: bool, launch: Launch = launch_kernel
) -> Tensor:
    """The causal depthwise convolution along each path, (b, K, L, d) in x's dtype."""
    if launch is launch_kernel and x.is_cuda:
        _compile_convolution(kind_of((x, weight, bias, paths, silu)), x.is_inference(), x.device)
    directions, length = paths.shape
    out = x.new_empty(x.shape[0], directions, length, x.shape[-1])
    with torch.cuda.device_of(x):
        launch(
            _KERNELS, "conv_kernel", _tiles(out), x, weight.contiguous(), contiguous(bias, weight), paths.contiguous(),
            out, *sequences(x), *out.shape[1:], SILU=silu, HAS_BIAS=bias is not None, W=weight.shape[-1], **_TILE,
        )  # fmt: skip
    return out


def conv_backward(
    grad_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    paths: Tensor,
    silu: bool,
    launch: Launch = launch_kernel,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of (x, weight, bias), None where the input is None."""
    batch, directions, length, channels = grad_out.shape
    width = weight.shape[-1]
    weight, paths = weight.contiguous(), paths.contiguous()
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    grad_y = x.new_empty(grad_out.shape) if silu else grad_out
    tiles = ceil_div(length, _TILE["BT"])
    dweight = weight.new_empty(batch, directions, tiles, channels, width)
    dbias = weight.new_empty(batch, directions, tiles, channels)
    with torch.cuda.device_of(x):
        launch(
            _KERNELS, "conv_weight_gradient_kernel", _tiles(grad_out), grad_out, x, weight, contiguous(bias, weight),
            paths, grad_y, dweight, dbias, *sequences(grad_out), *sequences(x), *grad_out.shape[1:],
            SILU=silu, HAS_BIAS=bias is not None, W=width, **_TILE,
        )  # fmt: skip
        copies = x if x.ndim == 4 else x[:, None]
        launch(
            _KERNELS, "conv_input_gradient_kernel", _tiles(copies), grad_y, weight, paths, inverse(paths), dx,
            *sequences(grad_y), copies.shape[1], *grad_out.shape[1:], W=width, **_TILE,
        )  # fmt: skip
    return dx, dweight.sum((0, 2)), None if bias is None else dbias.sum((0, 2))


@lru_cache(maxsize=256)
def _compile_convolution(kind: tuple, forward_only: bool, device: torch.device) -> None:
    """As `compile_scan`."""
    arguments = of_kind(kind)

    def use(launch: Launch) -> None:
        out = conv_forward(*arguments, launch)
        if not forward_only:
            conv_backward(out, *arguments, launch)

    compile_ahead(use, device)


class _ScanLaunches:
    """The arguments of a scan as the kernels want them, and the kernels' launches."""

    def __init__(self, scan: ScanArguments, launch: Launch) -> None:
        A = scan.A
        self.launch = launch
        self.u, self.delta, self.B, self.C = scan.u, scan.delta, scan.B, scan.C
        self.A = A.transpose(1, 2).contiguous()  # (K, n, d): channels innermost, as in the tiles
        self.D, self.bias, self.paths = contiguous(scan.D, A), contiguous(scan.delta_bias, A), scan.paths.contiguous()
        self.has_D, self.has_bias = scan.D is not None, scan.delta_bias is not None
        self.batch, self.directions, self.length, self.channels = scan.delta.shape
        self.state_size = A.shape[-1]
        self.interval = _interval(self.state_size)
        self.slots = ceil_div(self.length, self.interval)
        self.channel_blocks = ceil_div(self.channels, _BD)
        # States of a tile, for kernels that hold one: with 32, each costs 0.7 of what it costs with 16; 64 would spill.
        self.BN = 16 if self.state_size <= 16 else 32
        blocks = self.channel_blocks * ceil_div(self.state_size, self.BN)
        self.multiprocessors = multiprocessors(scan.u.device)
        self.slots_per_run, self.runs = self._split(blocks, _FORWARD_PROGRAMS)
        self.options = {"SOFTPLUS": scan.delta_softplus, "HAS_BIAS": self.has_bias}

    def run_starts(self) -> Tensor:
        """States, (b, K, slots, n, d), of which the first of each run is filled in."""
        states = self.A.new_empty(
            states_shape(self.batch, self.directions, self.length, self.channels, self.state_size)
        )
        if self.runs > 1:
            delta_sums = self._per_run(self.runs, self.channels)
            self._launch(
                "run_end_kernel", self._grid(self.runs - 1), self.u, self.delta, self.A, self.B, self.bias, self.paths,
                states, delta_sums, *sequences(self.u), *sequences(self.delta), *sequences(self.B),
                self.directions, self.length, self.channels, self.state_size, self.slots, self.runs,
                self.slots_per_run, self.interval, **self.options, **self._tile(self.u, self.delta, self.B),
            )  # fmt: skip
            self._carry(states, delta_sums, self.slots_per_run, reverse=False)
        return states

    def outputs(self, states: Tensor) -> Tensor:
        """y of each direction, as `new_parts`; fills in the rest of the states from the first of each run."""
        parts = self.new_parts(self.BN)
        self._launch(
            "scan_kernel", self._grid(self.runs), self.u, self.delta, self.A, self.B, self.C, self.D, self.bias,
            self.paths, states, parts, *sequences(self.u), *sequences(self.delta), *sequences(self.B),
            *sequences(self.C), self.directions, self.length, self.channels, self.state_size, self.slots, self.runs,
            self.slots_per_run, self.interval, HAS_D=self.has_D, **self.options,
            **self._tile(self.u, self.delta, self.B, self.C, parts),
        )  # fmt: skip
        return parts

    def new_parts(self, BN: int = _GRADIENT_BN) -> Tensor:
        """Room for y of each direction in parts by block of BN states, (b, K * state blocks, L, d) in u's dtype."""
        state_blocks = ceil_div(self.state_size, BN)
        return self.u.new_empty(self.batch, self.directions * state_blocks, self.length, self.channels)

    def gradients(self, g: Tensor, states: Tensor, parts: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of (u, delta, A, B, C, D, delta_bias) from g, that of each direction's y, which `parts` gets."""
        BN = _GRADIENT_BN
        state_blocks = ceil_div(self.state_size, BN)
        slots_per_run, runs = self._split(state_blocks, _BACKWARD_PROGRAMS)
        programs = self.batch * self.directions * state_blocks * runs
        groups = max(1, min(self.channel_blocks, _BACKWARD_PROGRAMS * self.multiprocessors // programs))
        blocks_per_group = ceil_div(self.channel_blocks, groups)
        groups = ceil_div(self.channel_blocks, blocks_per_group)
        programs *= groups

        adjoints = self._run_adjoints(g, slots_per_run, runs)
        sequence_axes, row_axes = (self.batch, self.directions), (self.length, self.channels)
        of_u, of_delta = state_blocks > 1 or self.u.ndim == 3, state_blocks > 1  # whether they have several addends
        du = self.u.new_empty(*sequence_axes, state_blocks, *row_axes, dtype=dtype_of_parts(self.u.dtype, of_u))
        ddelta = self.delta.new_empty(
            *sequence_axes, state_blocks, *row_axes, dtype=dtype_of_parts(self.delta.dtype, of_delta)
        )
        dA = self._per_run(runs, self.state_size, self.channels)
        dB = self.A.new_empty(groups, *sequence_axes, self.length, self.state_size)
        dC = torch.empty_like(dB)
        dD = self._per_run(runs, self.channels)
        dbias = self._per_run(runs, state_blocks, self.channels)
        scratch = self.A.new_empty(programs, ceil_div(self.interval, 2), BN, _BD)
        tile = self._tile(g, self.u, self.delta, self.B, self.C, du, dB)
        self._launch(
            "adjoint_kernel", (programs,), g, self.u, self.delta, self.A, self.B, self.C, self.D, self.bias, self.paths,
            states, adjoints, scratch, g if parts is None else parts, du, ddelta, dA, dB, dC, dD, dbias,
            *rows(g), *sequences(self.u), *sequences(self.delta), *sequences(self.B), *sequences(self.C),
            self.directions, self.length, self.channels, self.state_size, self.slots, runs, slots_per_run,
            self.interval, groups, blocks_per_group, self.batch * self.directions,
            HAS_D=self.has_D, GATED=parts is not None, **self.options, **{**tile, "BN": BN},
        )  # fmt: skip
        del adjoints, scratch  # before the gradients are copied once more
        return (
            sum_of_parts(du, 2, self.u.dtype) if self.u.ndim == 4 else sum_of_parts(du.flatten(1, 2), 1, self.u.dtype),
            sum_of_parts(ddelta, 2, self.delta.dtype),
            dA.sum((0, 2)).transpose(1, 2).contiguous(),
            sum_of_parts(dB, 0, self.B.dtype),
            sum_of_parts(dC, 0, self.C.dtype),
            dD.sum((0, 2)) if self.has_D else None,
            dbias.sum((0, 2, 3)) if self.has_bias else None,
        )

    def _run_adjoints(self, g: Tensor, slots_per_run: int, runs: int) -> Tensor:
        """The adjoint of the state after each run, (b, K, runs, n, d)."""
        adjoints = self._per_run(runs, self.state_size, self.channels)
        if runs > 1:
            delta_sums = self._per_run(runs, self.channels)
            self._launch(
                "run_adjoint_kernel", self._grid(runs - 1), g, self.delta, self.A, self.C, self.bias, self.paths,
                adjoints, delta_sums, *rows(g), *sequences(self.delta), *sequences(self.C), self.directions,
                self.length, self.channels, self.state_size, runs, slots_per_run, self.interval,
                **self.options, **self._tile(g, self.delta, self.C),
            )  # fmt: skip
            self._carry(adjoints, delta_sums, 1, reverse=True)
        return adjoints

    def _carry(self, states: Tensor, delta_sums: Tensor, slots_per_run: int, reverse: bool) -> None:
        slots, runs = states.shape[2], delta_sums.shape[2]
        self._launch(
            "carry_kernel", (self.batch * self.directions * self.state_size * self.channel_blocks,), self.A, states,
            delta_sums, self.directions, self.channels, self.state_size, slots, runs, slots_per_run,
            int(reverse), BT=_CARRIED_RUNS, BD=_BD,
        )  # fmt: skip

    def _launch(self, kernel: str, grid: tuple[int], *arguments: object, **constants: object) -> None:
        self.launch(_KERNELS, kernel, grid, *arguments, num_warps=1, **constants)

    def _split(self, blocks: int, programs: int) -> tuple[int, int]:
        """Slots per run and the number of runs that come nearest to programs per multiprocessor."""
        slots = self.batch * self.directions * blocks * self.slots
        slots_per_run = min(self.slots, ceil_div(slots, programs * self.multiprocessors))
        return slots_per_run, ceil_div(self.slots, slots_per_run)

    def _grid(self, runs: int) -> tuple[int]:
        return (self.batch * self.directions * runs * self.channel_blocks * ceil_div(self.state_size, self.BN),)

    def _per_run(self, runs: int, *shape: int) -> Tensor:
        return self.A.new_empty(self.batch, self.directions, runs, *shape)

    def _tile(self, *tensors: Tensor) -> dict[str, int | bool]:
        wide = any(self.length * tensor.stride(-2) >= _WIDE_OFFSETS for tensor in tensors)
        return {"WIDE": wide, "BN": self.BN, "BD": _BD}


def _tiles(out: Tensor) -> tuple[int]:
    """The grid of one `_TILE` each over a (..., L, d) tensor."""
    *outer, length, channels = out.shape
    return (prod(outer) * ceil_div(length, _TILE["BT"]) * ceil_div(channels, _TILE["BD"]),)


def _interval(state_size: int) -> int:
    """Tokens between saved states: n / 64 numbers per token and channel for small n, half as many for large."""
    return 64 if state_size <= 16 else 128
