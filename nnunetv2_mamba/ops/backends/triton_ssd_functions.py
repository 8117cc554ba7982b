"""What the Triton kernels of Mamba-2's two passes compute alike; conventions as in `triton_ssd_kernels.py`."""

import triton
import triton.language as tl

from .triton_functions import step_size

# Compiling takes seconds: no variants for sizes that do not make a kernel faster when they are 1 or a multiple of 16.
GENERAL = (
    *("direction", "directions", "first", "last", "length", "heads", "groups", "chunks", "parts", "heads_per_part"),
    *("rows_batch", "rows_direction", "g_batch", "z_batch", "delta_batch", "delta_direction", "delta_token"),
    *("B_batch", "B_direction", "B_group", "C_batch", "C_direction", "C_group", "u_batch", "u_direction"),
    *("weights_batch", "weights_direction", "weights_group", "grad_batch", "sequences"),
)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    if PRECISION == "bf16":
        result = tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    else:
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=PRECISION)
    return result


@triton.jit
def tokens_of_chunk(path, chunk, length, T: tl.constexpr):
    """The tokens of a chunk, (T), and whether they are there."""
    position = chunk * T + tl.arange(0, T)
    there = position < length
    return tl.load(path + position, mask=there, other=0).to(tl.int64), there


@triton.jit
def rows_of(pointer, token, there, column, columns, stride):
    """The columns of the tokens' rows, (T, columns)."""
    inside = there[:, None] & (column < columns)[None, :]
    return tl.load(pointer + token[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def steps_of(delta, bias, token, there, delta_token, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr):
    """A head's steps before and after softplus, (T) each; the latter zero beyond the path's end."""
    shift = 0.0
    if HAS_BIAS:
        shift = tl.load(bias)
    x = tl.load(delta + token * delta_token, mask=there, other=0.0).to(tl.float32)
    return x + shift, tl.where(there, step_size(x, shift, SOFTPLUS), 0.0)


@triton.jit
def decays_between(exponents, T: tl.constexpr):
    """From the exponent of each step's decay the decay from each step j to each step i, (j, i); zero for i < j.

    Every sum begins behind its own j: differences of sums from the start would have no digits left for small exponents
    behind a large one. Sums along the last axis stay within a warp and need half the registers.
    """
    j = tl.arange(0, T)[:, None]
    i = tl.arange(0, T)[None, :]
    between = tl.cumsum(tl.where(i > j, exponents[None, :], 0.0), 1)
    return tl.where(i >= j, tl.exp(between), 0.0)


@triton.jit
def decays_to_end(exponents, T: tl.constexpr):
    """From each step to the last, (T): the last column of `decays_between`."""
    later = tl.arange(0, T)[None, :] > tl.arange(0, T)[:, None]
    return tl.exp(tl.sum(tl.where(later, exponents[None, :], 0.0), 1))


@triton.jit
def state_tile(states, p, n, channels, state_size):
    """A tile of a head's state, (BP, BN)."""
    inside = (p < channels)[:, None] & (n < state_size)[None, :]
    return tl.load(states + p[:, None] * state_size + n[None, :], mask=inside, other=0.0)


@triton.jit
def products_of_rows(B, C, token, there, B_token, C_token, N, PRECISION: tl.constexpr, T: tl.constexpr,
              BN: tl.constexpr):  # fmt: skip
    """B of each token j times C of each token i, (j, i)."""
    products = tl.zeros([T, T], tl.float32)
    for start in range(0, N, BN):
        n = start + tl.arange(0, BN)
        B_tile = rows_of(B, token, there, n, N, B_token)
        C_tile = rows_of(C, token, there, n, N, C_token)
        products += product(B_tile, tl.trans(C_tile), PRECISION)
    return products
