"""The Triton kernels of Mamba-2's gradients; conventions as in `triton_ssd_kernels.py`."""

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
def token_gradient_kernel(
    g, u, delta, A, B, C, D, bias, paths, states, adjoints, total, du, ddelta, dA, dD, dbias,
    g_batch, g_token, u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token,
    B_batch, B_direction, B_token, B_group, C_batch, C_direction, C_token, C_group, du_batch, du_direction,
    direction, directions, first, last, length, heads, groups, chunks, P, N,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, PRECISION: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of u and delta in one direction, and each chunk's share of those of A, D and the bias.

    du goes on top of what the directions before it left in `total`; the last one writes it.
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
    to_end = decays_to_end(exponents, T)
    B += batch * B_batch + direction.to(tl.int64) * B_direction + group * B_group
    C += batch * C_batch + direction.to(tl.int64) * C_direction + group * C_group
    weights = products_of_rows(B, C, token, there, B_token, C_token, N, PRECISION, T, BN)
    weights *= decays_between(exponents, T)

    of_chunk = ((sequence * chunks + chunk) * heads + head) * P * N
    states += of_chunk
    adjoints += of_chunk
    u += batch * u_batch + direction.to(tl.int64) * u_direction + head * P
    g += batch * g_batch + head * P
    channels = heads * P
    total += batch * length * channels + head * P
    du += batch * du_batch + direction.to(tl.int64) * du_direction + head * P

    dweights = tl.zeros([T, T], tl.float32)  # but for the step of the token j
    slope = tl.zeros([T], tl.float32)  # of the step, by what it multiplies
    from_before = tl.zeros([T], tl.float32)  # what tokens have of the state before the chunk, times its gradient
    to_after = tl.zeros([T], tl.float32)  # what the state after the chunk has of tokens, times its gradient
    through = 0.0
    dskip = tl.zeros([T], tl.float32)
    for p_start in range(0, P, BP):
        p = p_start + tl.arange(0, BP)
        y = tl.zeros([T, BP], tl.float32)
        dx = tl.zeros([T, BP], tl.float32)
        for n_start in range(0, N, BN):
            n = n_start + tl.arange(0, BN)
            before = state_tile(states, p, n, P, N)
            after = state_tile(adjoints, p, n, P, N)
            through += tl.sum(tl.sum(before * after, 1), 0)
            y += product(rows_of(C, token, there, n, N, C_token), tl.trans(before), PRECISION)
            dx += product(rows_of(B, token, there, n, N, B_token), tl.trans(after), PRECISION)
        u_tile = rows_of(u, token, there, p, P, u_token)
        g_tile = rows_of(g, token, there, p, P, g_token)
        dweights += product(u_tile, tl.trans(g_tile), PRECISION)
        dx_within = product(weights, g_tile, PRECISION)
        u_tile, g_tile = u_tile.to(tl.float32), g_tile.to(tl.float32)
        from_before += tl.sum(g_tile * y, 1)
        dx *= to_end[:, None]
        to_after += tl.sum(dx * u_tile, 1)
        dx += dx_within
        slope += tl.sum(dx * u_tile, 1)
        du_tile = dx * dl[:, None]
        if HAS_D:
            du_tile += tl.load(D + parameter) * g_tile
            dskip += tl.sum(g_tile * u_tile, 1)
        inside = there[:, None] & (p < P)[None, :]
        tile = token[:, None] * channels + p[None, :]
        du_tile += tl.load(total + tile, mask=inside & (first == 0), other=0.0)
        tl.store(total + tile, du_tile, mask=inside & (last == 0))
        tl.store(du + tile, du_tile.to(du.dtype.element_ty), mask=inside & (last != 0))

    # Read once more, since registers are scarce above.
    token, there = tokens_of_chunk(paths + direction.to(tl.int64) * length, chunk, length, T)
    x, dl = steps_of(delta, bias + parameter, token, there, delta_token, SOFTPLUS, HAS_BIAS)
    rate = tl.load(A + parameter)
    exponents = dl * rate
    from_start = tl.exp(tl.cumsum(exponents, 0))
    # Of the exponents: that of token k decays all that goes from before it to it or later.
    later = tl.cumsum(dweights * weights * dl[:, None], 1, reverse=True) + (to_after * dl)[:, None]
    earlier = tl.arange(0, T)[:, None] < tl.arange(0, T)[None, :]
    dexponent = tl.sum(tl.where(earlier, later, 0.0), 0)
    dexponent += tl.cumsum(from_before * from_start, 0, reverse=True)
    dexponent += through * tl.exp(tl.sum(exponents, 0))
    slope += dexponent * rate
    if SOFTPLUS:
        slope *= sigmoid(x)
    slope = tl.where(there, slope, 0.0)
    ddelta += sequence * length * heads + token * heads + head
    tl.store(ddelta, slope.to(ddelta.dtype.element_ty), mask=there)
    share = (sequence * chunks + chunk) * heads + head
    tl.store(dA + share, tl.sum(dexponent * dl, 0))
    tl.store(dD + share, tl.sum(dskip, 0))
    tl.store(dbias + share, tl.sum(slope, 0))


@triton.jit(do_not_specialize=GENERAL)
def weight_gradient_kernel(
    g, u, delta, A, B, C, bias, paths, states, adjoints, dB, dC,
    g_batch, g_token, u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token,
    B_batch, B_direction, B_token, B_group, C_batch, C_direction, C_token, C_group,
    directions, length, heads, groups, chunks, P, N, parts, heads_per_part, sequences,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
    T: tl.constexpr, BP: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Gradients of B and C from a part of each group's heads, which are added up in order."""
    pid = tl.program_id(0)
    n_start = pid % tl.cdiv(N, BN) * BN
    pid = pid // tl.cdiv(N, BN)
    part = pid % parts
    group = pid // parts % groups
    chunk = pid // parts // groups % chunks
    sequence = (pid // parts // groups // chunks).to(tl.int64)
    batch, direction = sequence // directions, sequence % directions
    n = n_start + tl.arange(0, BN)
    token, there = tokens_of_chunk(paths + direction * length, chunk, length, T)
    delta += batch * delta_batch + direction * delta_direction
    u += batch * u_batch + direction * u_direction
    g += batch * g_batch
    of_chunk = (sequence * chunks + chunk) * heads * P * N

    dproducts = tl.zeros([T, T], tl.float32)
    dB_tile = tl.zeros([T, BN], tl.float32)
    dC_tile = tl.zeros([T, BN], tl.float32)
    heads_per_group = heads // groups
    first_head = part * heads_per_part
    for of_group in range(first_head, tl.minimum(first_head + heads_per_part, heads_per_group)):
        head = group * heads_per_group + of_group
        parameter = direction * heads + head
        _, dl = steps_of(delta + head, bias + parameter, token, there, delta_token, SOFTPLUS, HAS_BIAS)
        exponents = dl * tl.load(A + parameter)
        from_start = tl.exp(tl.cumsum(exponents, 0))
        scale = dl * decays_to_end(exponents, T)
        state = of_chunk + head.to(tl.int64) * P * N
        dweights = tl.zeros([T, T], tl.float32)
        for p_start in range(0, P, BP):
            p = p_start + tl.arange(0, BP)
            u_tile = rows_of(u + head * P, token, there, p, P, u_token)
            g_tile = rows_of(g + head * P, token, there, p, P, g_token)
            dweights += product(u_tile, tl.trans(g_tile), PRECISION)
            before = state_tile(states + state, p, n, P, N)
            dC_tile += product(g_tile.to(tl.float32) * from_start[:, None], before, PRECISION)
            after = state_tile(adjoints + state, p, n, P, N)
            dB_tile += product(u_tile.to(tl.float32) * scale[:, None], after, PRECISION)
        dproducts += dweights * decays_between(exponents, T) * dl[:, None]

    B_tile = rows_of(B + batch * B_batch + direction * B_direction + group * B_group, token, there, n, N, B_token)
    dC_tile += product(tl.trans(dproducts), B_tile, PRECISION)
    C_tile = rows_of(C + batch * C_batch + direction * C_direction + group * C_group, token, there, n, N, C_token)
    dB_tile += product(dproducts, C_tile, PRECISION)
    row = (part * sequences + sequence) * length
    tile = ((row + token)[:, None] * groups + group) * N + n[None, :]
    inside = there[:, None] & (n < N)[None, :]
    tl.store(dB + tile, dB_tile.to(dB.dtype.element_ty), mask=inside)
    tl.store(dC + tile, dC_tile.to(dC.dtype.element_ty), mask=inside)
