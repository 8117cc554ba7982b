"""Mamba-2's scan as Triton kernels: CUDA tensors in fp16, bf16 or fp32, states and sums in fp32.

A path is cut into chunks. Within one, the scan is matrix products of tokens, as in `torch_ssd.py`:

- forward: `chunk_kernel` learns what each chunk adds to a zero state, `carry_kernel` carries that over the chunks to
  the state before each, which is saved, and `output_kernel` makes the result of one direction from there. The
  directions follow one another, so that each adds to what is there; the last one gates the sum.
- backward: the first two in reverse give the adjoint of the state after each chunk. `token_gradient_kernel` has a
  program for every head and goes direction by direction, as its du may be shared; `weight_gradient_kernel` walks over
  the heads of a group with dB and dC in registers. Two kernels, since one would need the registers of both and could be
  cut neither by heads nor by states. The gate needs the ungated sum, which `output_kernel` makes again.

Each number has one writer and partial sums are added in a fixed order: no atomics, the same bits every time. Exponents
are added up from where a decay begins and never subtracted, in a matrix of tokens by tokens per head and chunk, so that
one token with a huge step costs the others no digits.

Chunks have 32 tokens and tiles at most 32 channels or states. With 64 the kernels of the gradients would spill hundreds
of bytes per thread on sm_75, sm_80 and sm_90, and with 4 warps instead of 8 one would on sm_90 even so. The states
saved are n / 32 numbers per token and channel.

The operands of the products are bf16 where u, B and C are; sums stay in fp32. Numbers in fp16 are multiplied as TF32,
which has fp16's digits and fp32's range: steps times inputs, or gradients times gates, do not fit into fp16, and an Inf
there would be NaN behind a closed gate. Numbers in fp32 are multiplied in fp32, without tensor cores, as all are before
compute capability 8.0: with three TF32 products for one in fp32 the kernels of the gradients would spill.

Every function takes plain tensors with validated shapes (see `ops/_directional_ssd.py`) and knows nothing of autograd.
Source: Dao and Gu, "Transformers are SSMs", section 6, the chunked algorithm; nothing is copied from mamba_ssm.
"""

import torch
from torch import Tensor

from ..scan_arguments import ScanArguments, ScanGradients
from .triton_launch import (
    ALL_REGISTERS,
    Launch,
    ceil_div,
    compile_scan,
    contiguous,
    dtype_of_parts,
    kind_of,
    launch_kernel,
    rows,
    sequences,
    sum_of_parts,
)

_CHUNK = 32  # tokens, or chunks that a program carries the state over at a time
_TILES = (32, 16)  # channels of a head, or states
_CARRIED = 64  # numbers of a head's state that a program carries
_WEIGHT_PROGRAMS = 1024  # aimed at, for the gradients of B and C; where there are more, one walks over a group's heads
_FORWARD, _BACKWARD = "triton_ssd_kernels", "triton_ssd_backward_kernels"  # files of kernels


def states_shape(batch: int, directions: int, length: int, channels: int, state_size: int) -> tuple[int, ...]:
    """Shape of the states saved by `scan_forward`: the state before each chunk, (b, K, chunks, d, n)."""
    return batch, directions, ceil_div(length, _CHUNK), channels, state_size


def scan_forward(scan: ScanArguments, launch: Launch = launch_kernel) -> tuple[Tensor, Tensor]:
    """The sum of the scans, (b, L, d) in u's dtype, and the states for `scan_backward`."""
    if launch is launch_kernel and scan.u.is_cuda:
        compile_scan(scan_forward, scan_backward, kind_of(scan), scan.u.is_inference(), scan.u.device)
    launches = _Launches(scan, launch)
    with torch.cuda.device_of(scan.u):
        states = launches.states()
        out = scan.u.new_empty(launches.rows_shape)
        launches.outputs(states, out)
    return out, states


def scan_backward(
    grad_out: Tensor, scan: ScanArguments, states: Tensor, launch: Launch = launch_kernel
) -> ScanGradients:
    """The gradients, from that of the result and the states of `scan_forward`."""
    launches, g, dz = _Launches(scan, launch), grad_out, None
    with torch.cuda.device_of(scan.u):
        if scan.z is not None:
            dz = torch.empty_like(scan.z, memory_format=torch.contiguous_format)
            g = launches.outputs(states, dz, grad_out)
        adjoints = launches.states(g)
        dB, dC = launches.weight_gradients(g, states, adjoints)
        du, ddelta, dA, dD, dbias = launches.token_gradients(g, states, adjoints)
    return ScanGradients(du, ddelta, dA, dB, dC, dD, dbias, dz)


class _Launches:
    """The arguments of a scan as the kernels want them, and the kernels' launches."""

    def __init__(self, scan: ScanArguments, launch: Launch) -> None:
        self.launch = launch
        A = scan.A.contiguous()
        self.u, self.delta, self.A, self.B, self.C, self.paths = (
            scan.u, scan.delta, A, scan.B, scan.C, scan.paths.contiguous(),
        )  # fmt: skip
        self.D, self.bias = contiguous(scan.D, A), contiguous(scan.delta_bias, A)
        self.z = scan.u if scan.z is None else scan.z
        self.has_D, self.has_bias, self.has_z = scan.D is not None, scan.delta_bias is not None, scan.z is not None
        self.batch, self.directions, self.length, self.heads = scan.delta.shape
        self.groups, self.state_size = scan.B.shape[-2:]
        self.head_size = scan.u.shape[-1] // self.heads
        self.chunks = ceil_div(self.length, _CHUNK)
        self.rows_shape = (self.batch, self.length, scan.u.shape[-1])
        self.sizes = (self.length, self.heads, self.groups, self.chunks, self.head_size, self.state_size)
        self.tile = {"T": _CHUNK, "BP": _tile(self.head_size), "BN": _tile(self.state_size)}
        self.options = {
            "SOFTPLUS": scan.delta_softplus, "HAS_BIAS": self.has_bias,
            "PRECISION": _precision(self.u, self.B, self.C), **self.tile,
        }  # fmt: skip

    def states(self, g: Tensor | None = None) -> Tensor:
        """The state before each chunk or, given the gradient of the ungated sum, the adjoint of that after each."""
        states = self.A.new_empty(
            states_shape(self.batch, self.directions, self.length, self.rows_shape[-1], self.state_size)
        )
        sums = self.A.new_empty(self.batch, self.directions, self.heads, self.chunks)
        adjoint = g is not None
        inputs, weights = (g, self.C) if adjoint else (self.u, self.B)
        heads = self.batch * self.directions * self.heads
        if self.chunks > 1:
            tiles = ceil_div(self.head_size, self.tile["BP"]) * ceil_div(self.state_size, self.tile["BN"])
            self._launch(
                _FORWARD, "chunk_kernel", (heads * (self.chunks - 1) * tiles,), inputs, self.delta, self.A, weights,
                self.bias, self.paths, states, sums, *sequences(inputs), *sequences(self.delta), *_grouped(weights),
                self.directions, *self.sizes, ADJOINT=adjoint, **self.options,
            )  # fmt: skip
        size = self.head_size * self.state_size
        self._launch(
            _FORWARD, "carry_kernel", (heads * ceil_div(size, _CARRIED),), states, sums, self.heads, self.chunks, size,
            REVERSE=adjoint, PRECISION="ieee", T=_CHUNK, BLOCK=_CARRIED,
        )  # fmt: skip
        return states

    def outputs(self, states: Tensor, out: Tensor, grad: Tensor | None = None) -> Tensor:
        """Write the result to `out` or, given its gradient, that of the gate; returns that of the ungated sum."""
        total, gradient, g = self._total(self.directions), self.u, out
        if grad is not None:
            gradient, g = grad, grad.new_empty(grad.shape, dtype=dtype_of_parts(grad.dtype))
        for direction in range(self.directions):
            self._launch(
                _FORWARD, "output_kernel", self._grid(), self.u, self.delta, self.A, self.B, self.C, self.D, self.bias,
                self.paths, states, self.z, gradient, total, out, g, *sequences(self.u), *sequences(self.delta),
                *_grouped(self.B), *_grouped(self.C), *rows(self.z), *rows(gradient), direction, self.directions,
                int(direction == 0), int(direction == self.directions - 1), *self.sizes,
                GATE_GRADIENT=grad is not None, HAS_D=self.has_D, HAS_Z=self.has_z, **self.options,
            )  # fmt: skip
        return g

    def token_gradients(self, g: Tensor, states: Tensor, adjoints: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of (u, delta, A, D, delta_bias)."""
        shared = self.u.ndim == 3
        du = torch.empty_like(self.u, memory_format=torch.contiguous_format)
        ddelta = torch.empty_like(self.delta, memory_format=torch.contiguous_format)
        dA, dD, dbias = (self.A.new_empty(self.batch, self.directions, self.chunks, self.heads) for _ in range(3))
        total = self._total(self.directions if shared else 1)
        options = {**self.options, "BP": _TILES[-1]}  # with 32 channels of a head some would spill
        for direction in range(self.directions):
            first, last = (direction == 0, direction == self.directions - 1) if shared else (True, True)
            self._launch(
                _BACKWARD, "token_gradient_kernel", self._grid(), g, self.u, self.delta, self.A, self.B, self.C, self.D,
                self.bias, self.paths, states, adjoints, total, du, ddelta, dA, dD, dbias, *rows(g), *sequences(self.u),
                *sequences(self.delta), *_grouped(self.B), *_grouped(self.C), *sequences(du)[:2], direction,
                self.directions, int(first), int(last), *self.sizes, HAS_D=self.has_D, num_warps=8,
                **ALL_REGISTERS, **options,
            )  # fmt: skip
        dA, dD, dbias = (share.sum((0, 2)) for share in (dA, dD, dbias))
        return du, ddelta, dA, dD if self.has_D else None, dbias if self.has_bias else None

    def weight_gradients(self, g: Tensor, states: Tensor, adjoints: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of (B, C)."""
        heads = self.heads // self.groups
        count = self.batch * self.directions
        programs = count * self.chunks * self.groups * ceil_div(self.state_size, self.tile["BN"])
        heads_per_part = ceil_div(heads, max(1, min(heads, _WEIGHT_PROGRAMS // programs)))
        parts = ceil_div(heads, heads_per_part)
        dB, dC = (
            self.A.new_empty(parts, *t.shape, dtype=t.dtype if parts == 1 else self.A.dtype) for t in (self.B, self.C)
        )
        self._launch(
            _BACKWARD, "weight_gradient_kernel", (programs * parts,), g, self.u, self.delta, self.A, self.B, self.C,
            self.bias, self.paths, states, adjoints, dB, dC, *rows(g), *sequences(self.u), *sequences(self.delta),
            *_grouped(self.B), *_grouped(self.C), self.directions, *self.sizes, parts, heads_per_part, count,
            num_warps=8, **ALL_REGISTERS, **self.options,
        )  # fmt: skip
        return sum_of_parts(dB, 0, self.B.dtype), sum_of_parts(dC, 0, self.C.dtype)

    def _launch(
        self, file: str, kernel: str, grid: tuple[int], *arguments: object, num_warps: int = 4, **constants: object
    ) -> None:
        self.launch(file, kernel, grid, *arguments, num_warps=num_warps, **constants)

    def _grid(self) -> tuple[int]:
        return (self.batch * self.chunks * self.heads,)

    def _total(self, addends: int) -> Tensor:
        """Where sums over several addends are kept, (b, L, d) in fp32; with one it is never read or written."""
        return self.A.new_empty(self.rows_shape) if addends > 1 else self.A


def _precision(*tensors: Tensor) -> str:
    """What matrix products of these are computed in, as the kernels name it."""
    if any(t.dtype == torch.float32 for t in tensors) or not _has_tf32(tensors[0].device):
        return "ieee"
    return "bf16" if all(t.dtype == torch.bfloat16 for t in tensors) else "tf32"


def _has_tf32(device: torch.device) -> bool:
    """Whether matrix products of TF32 and bf16 exist; for tensors that are on no GPU, on the current one."""
    return torch.cuda.get_device_capability(device if device.type == "cuda" else None) >= (8, 0)


def _tile(size: int) -> int:
    """Channels or states of a tile: of those that fit in, the largest that pads least."""
    fitting = [tile for tile in _TILES if tile <= size] or _TILES[-1:]
    return min(fitting, key=lambda tile: ceil_div(size, tile) * tile)


def _grouped(t: Tensor) -> tuple[int, int, int, int]:
    """Strides of a (b, K, L, G, n) tensor but for the last."""
    return t.stride()[:4]
