"""The Triton kernels of Mamba-2's forward pass.

`ops/backends/triton_ssd.py` says how they work together and launches them. A program owns a chunk of T tokens of one
direction of one sequence, which it finds through the path's table, and works on tiles of T tokens by T tokens, BP
channels of a head, or BN states, in matrix products with sums in fp32. Rows of u, delta, B, C, z and of the gradient
have a stride of 1; everything made here is contiguous. What is beyond the path's end, a head's P channels or its N
states reads as zero, steps included.

PRECISION names what the operands of a matrix product are: "bf16", or numbers in fp32 as "tf32" or "ieee".
"""

import triton
import triton.language as tl

from .triton_functions import sigmoid
from .triton_ssd_functions import (
    GENERAL,
    decays_between,
    decays_to_end,
    product,
    products_of_rows,
    rows_of,
    state_tile,
    steps_of,
    tokens_of_chunk,
)


@triton.jit(do_not_specialize=GENERAL)
def chunk_kernel(
    rows, delta, A, weights, bias, paths, states, sums,
    rows_batch, rows_direction, rows_token, delta_batch, delta_direction, delta_token,
    weights_batch, weights_direction, weights_token, weights_group, directions, length, heads, groups, chunks, P, N,
    ADJOINT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """What each chunk but the last adds to the state, stored in the next chunk's slot, and the sum of its exponents.

    ADJOINT: what each chunk but the first adds to the adjoint of the state before it, stored in the previous chunk's
    slot. `rows` and `weights` are then the gradient and C, otherwise u and B.
    """
    pid = tl.program_id(0)
    n_block = pid % tl.cdiv(N, BN)
    p_block = pid // tl.cdiv(N, BN) % tl.cdiv(P, BP)
    pid = pid // (tl.cdiv(N, BN) * tl.cdiv(P, BP))
    head = pid % heads
    chunk = pid // heads % (chunks - 1)
    sequence = (pid // heads // (chunks - 1)).to(tl.int64)
    batch, direction = sequence // directions, sequence % directions
    group = head // (heads // groups)
    n = n_block * BN + tl.arange(0, BN)
    p = p_block * BP + tl.arange(0, BP)
    slot = chunk
    if ADJOINT:
        chunk += 1
    else:
        slot += 1

    token, there = tokens_of_chunk(paths + direction * length, chunk, length, T)
    delta += batch * delta_batch + direction * delta_direction + head
    _, dl = steps_of(delta, bias + direction * heads + head, token, there, delta_token, SOFTPLUS, HAS_BIAS)
    exponents = dl * tl.load(A + direction * heads + head)
    rows += batch * rows_batch + direction * rows_direction + head * P
    x = rows_of(rows, token, there, p, P, rows_token).to(tl.float32)
    if ADJOINT:
        x *= tl.exp(tl.cumsum(exponents, 0))[:, None]
    else:
        x *= (dl * decays_to_end(exponents, T))[:, None]
    weights += batch * weights_batch + direction * weights_direction + group * weights_group
    added = product(tl.trans(x), rows_of(weights, token, there, n, N, weights_token), PRECISION)
    states += ((sequence * chunks + slot) * heads + head) * P * N
    tl.store(states + p[:, None] * N + n[None, :], added, mask=(p < P)[:, None] & (n < N)[None, :])
    if (n_block == 0) & (p_block == 0):
        tl.store(sums + (sequence * heads + head) * chunks + chunk, tl.sum(exponents, 0))


@triton.jit(do_not_specialize=GENERAL)
def carry_kernel(
    states, sums, heads, chunks, SIZE,
    REVERSE: tl.constexpr, PRECISION: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Turn what each chunk adds into the state before each chunk, in place, T chunks at a time; the first is zero.

    As within a chunk: decays from chunk to chunk times what they add, a matrix product. REVERSE: the adjoint after each
    chunk, from the last chunk to the first. SIZE numbers of a head's state.
    """
    pid = tl.program_id(0)
    element = pid % tl.cdiv(SIZE, BLOCK) * BLOCK + tl.arange(0, BLOCK)
    head = pid // tl.cdiv(SIZE, BLOCK) % heads
    sequence = (pid // tl.cdiv(SIZE, BLOCK) // heads).to(tl.int64)
    states += (sequence * chunks * heads + head) * SIZE
    sums += (sequence * heads + head) * chunks
    steps = tl.arange(0, T)
    state = tl.zeros([BLOCK], tl.float32)
    for start in range(0, chunks, T):
        step = start + steps
        slot = chunks - 1 - step if REVERSE else step
        exponents = tl.load(sums + slot + (1 if REVERSE else -1), mask=(step > 0) & (step < chunks), other=0.0)
        inside = (step < chunks)[:, None] & (element < SIZE)[None, :]
        pointers = states + slot.to(tl.int64)[:, None] * heads * SIZE + element[None, :]
        added = tl.load(pointers, mask=inside & (step > 0)[:, None], other=0.0)
        carried = tl.exp(tl.cumsum(exponents, 0))[:, None] * state[None, :]
        result = product(tl.trans(decays_between(exponents, T)), added, PRECISION) + carried
        tl.store(pointers, result, mask=inside)
        state = tl.sum(tl.where((steps == T - 1)[:, None], result, 0.0), 0)


@triton.jit(do_not_specialize=GENERAL)
def output_kernel(
    u, delta, A, B, C, D, bias, paths, states, z, grad, total, out, g,
    u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token, B_batch, B_direction, B_token, B_group,
    C_batch, C_direction, C_token, C_group, z_batch, z_token, grad_batch, grad_token,
    direction, directions, first, last, length, heads, groups, chunks, P, N,
    GATE_GRADIENT: tl.constexpr, SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr,
    HAS_Z: tl.constexpr, PRECISION: tl.constexpr, T: tl.constexpr,
    BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """The result of one direction, on top of what the directions before it left in `total`.

    The last one writes `out`: the sum, times silu(z); or, if GATE_GRADIENT, the gradient of z, and to `g` that of the
    sum.
    """
    pid = tl.program_id(0)
    head = pid % heads
    chunk = pid // heads % chunks
    batch = (pid // heads // chunks).to(tl.int64)
    sequence = batch * directions + direction
    group = head // (heads // groups)
    token, there = tokens_of_chunk(paths + direction.to(tl.int64) * length, chunk, length, T)
    delta += batch * delta_batch + direction.to(tl.int64) * delta_direction + head
    parameter = direction * heads + head
    _, dl = steps_of(delta, bias + parameter, token, there, delta_token, SOFTPLUS, HAS_BIAS)
    exponents = dl * tl.load(A + parameter)
    from_start = tl.exp(tl.cumsum(exponents, 0))
    B += batch * B_batch + direction.to(tl.int64) * B_direction + group * B_group
    C += batch * C_batch + direction.to(tl.int64) * C_direction + group * C_group
    weights = products_of_rows(B, C, token, there, B_token, C_token, N, PRECISION, T, BN)
    weights *= decays_between(exponents, T) * dl[:, None]

    states += ((sequence * chunks + chunk) * heads + head) * P * N
    u += batch * u_batch + direction.to(tl.int64) * u_direction + head * P
    z += batch * z_batch + head * P
    grad += batch * grad_batch + head * P
    channels = heads * P
    result = batch * length * channels + head * P
    for p_start in range(0, P, BP):
        p = p_start + tl.arange(0, BP)
        y = tl.zeros([T, BP], tl.float32)
        for n_start in range(0, N, BN):
            n = n_start + tl.arange(0, BN)
            state = state_tile(states, p, n, P, N)
            y += product(rows_of(C, token, there, n, N, C_token), tl.trans(state), PRECISION)
        u_tile = rows_of(u, token, there, p, P, u_token)
        y = y * from_start[:, None] + product(tl.trans(weights), u_tile, PRECISION)
        if HAS_D:
            y += tl.load(D + parameter) * u_tile.to(tl.float32)
        inside = there[:, None] & (p < P)[None, :]
        tile = result + token[:, None] * channels + p[None, :]
        y += tl.load(total + tile, mask=inside & (first == 0), other=0.0)
        tl.store(total + tile, y, mask=inside & (last == 0))
        there_last = there & (last != 0)
        if HAS_Z:
            gate = rows_of(z, token, there_last, p, P, z_token).to(tl.float32)
            logistic = sigmoid(gate)
            if GATE_GRADIENT:
                grad_tile = rows_of(grad, token, there_last, p, P, grad_token).to(tl.float32)
                tl.store(g + tile, (grad_tile * gate * logistic).to(g.dtype.element_ty), mask=inside & (last != 0))
                y *= grad_tile * logistic * (1.0 + gate * (1.0 - logistic))
            else:
                y *= gate * logistic
        tl.store(out + tile, y.to(out.dtype.element_ty), mask=inside & (last != 0))
