"""The Triton kernels behind `ops/backends/triton.py`, which says how they work together and launches them.

A program is one warp. It owns a tile of BN states by BD channels of one direction of one sequence and walks tokens one
after another, with the tile's state in registers. Tokens are found through the path's table, so no tensor is ever
permuted. Rows of u, delta, B and C have a stride of 1; everything made here is contiguous.

Padded states have A = B = C = 0. Padded channels read the last channel again, which costs less than a mask in the loop;
only their g is 0, and nothing of either kind is stored.
"""

import triton
import triton.language as tl

from .triton_functions import saturated, sigmoid, softplus, step_size

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# Compiling takes seconds: no variants for sizes that do not make a kernel faster when they are 1 or a multiple of 16,
# nor for where B and C lie, which are parts of one projection: the scans' programs read single numbers of them.
_GENERAL = (
    *("directions", "length", "slots", "runs", "slots_per_run", "interval", "groups", "blocks_per_group", "sequences"),
    *(
        "reverse",
        "count",
        "outputs",
        "u_batch",
        "u_direction",
        "delta_batch",
        "delta_direction",
        "B_batch",
        "B_direction",
    ),
    *("C_batch", "C_direction", "g_batch", "z_batch", "grad_batch", "grad_direction", "x_batch", "x_direction"),
    *("u_token", "delta_token", "B_token", "C_token", "g_token", "B", "C"),
)


@triton.jit
def _decayed(h, dl, decay, EXACT: tl.constexpr):
    """h times exp2 of dl * decay, rates in `decay`.

    EXACT, for steps in fp32, keeps the digits of a decay's distance from 1, which thousands of steps add up; in 16 bits
    a step itself has fewer.
    """
    x = dl[None, :] * decay
    result = h * tl.exp2(x)
    if EXACT:
        # 2^x - 1, the first terms of its series
        rest = x * (LN_2 + x * (0.2402265069591007 + x * (0.05550410866 + x * (0.00961812911 + x * 0.00133335581))))
        result = tl.where(tl.abs(x) < 0.25, h + h * rest, result)
    return result


@triton.jit
def _forward_step(h, u_t, dl, B_t, decay, EXACT: tl.constexpr):
    return _decayed(h, dl, decay, EXACT) + (dl * u_t)[None, :] * B_t[:, None]


@triton.jit
def _token(path, position, WIDE: tl.constexpr):
    """The token at a position; 64 bits wide if a token's offset in some tensor may not fit in 32."""
    token = tl.load(path + position)
    return token.to(tl.int64) if WIDE else token


@triton.jit
def _coordinates(directions, runs, BLOCKS):
    """(batch * K + direction, batch, direction, run, block) of this program; neighbours share tokens, so B and C."""
    pid = tl.program_id(0)
    block = pid % BLOCKS
    run = (pid // BLOCKS) % runs
    sequence = (pid // BLOCKS // runs).to(tl.int64)
    return sequence, sequence // directions, sequence % directions, run, block


@triton.jit
def _if(condition, size):
    """`size` where the scalar condition holds, else 0: `index < _if(condition, size)` masks by both."""
    return tl.where(condition, size, 0)


@triton.jit
def _tile(block, channels, state_size, BN: tl.constexpr, BD: tl.constexpr):
    """Indices of the tile's states and channels, and the block of states; channel blocks are innermost."""
    channel_blocks = tl.cdiv(channels, BD)
    state_block = block // channel_blocks
    states = state_block * BN + tl.arange(0, BN)
    columns = (block % channel_blocks) * BD + tl.arange(0, BD)
    return states, columns, state_block


@triton.jit
def _decay_rates(A, states, columns, channels, state_size):
    """log2(e) * A for the tile, (BN, BD), from A as (n, d); 0 outside."""
    inside = (states < state_size)[:, None] & (columns < channels)[None, :]
    return tl.load(A + states[:, None] * channels + columns[None, :], mask=inside, other=0.0) * LOG2_E


@triton.jit
def _optional_row(pointer, columns, channels, GIVEN: tl.constexpr, BD: tl.constexpr):
    row = tl.zeros([BD], tl.float32)
    if GIVEN:
        row = tl.load(pointer + columns, mask=columns < channels, other=0.0)
    return row


@triton.jit(do_not_specialize=_GENERAL)
def run_end_kernel(
    u, delta, A, B, bias, paths, states, delta_sums,
    u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token, B_batch, B_direction, B_token,
    directions, length, channels, state_size, slots, runs, slots_per_run, interval,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What each run but the last adds to a zero state, stored as the next run's initial state, and its sum of dl."""
    EXACT: tl.constexpr = delta.dtype.element_ty == tl.float32
    blocks = tl.cdiv(channels, BD) * tl.cdiv(state_size, BN)
    sequence, batch, direction, run, block = _coordinates(directions, runs - 1, blocks)
    n, d, state_block = _tile(block, channels, state_size, BN, BD)
    decay = _decay_rates(A + direction * state_size * channels, n, d, channels, state_size)
    shift = _optional_row(bias + direction * channels, d, channels, HAS_BIAS, BD)
    path = paths + direction * length

    column = tl.minimum(d, channels - 1)
    u += batch * u_batch + direction * u_direction + column
    delta += batch * delta_batch + direction * delta_direction + column
    B += batch * B_batch + direction * B_direction + n

    h = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    start = run * slots_per_run * interval
    stop = start + slots_per_run * interval
    # The next token's rows are on their way while this one's are used.
    token = _token(path, start, WIDE)
    u_t, delta_t = tl.load(u + token * u_token), tl.load(delta + token * delta_token)
    B_t = tl.load(B + token * B_token, mask=n < state_size, other=0.0)
    for position in range(start, stop):
        token = _token(path, tl.minimum(position + 1, stop - 1), WIDE)
        u_next = tl.load(u + token * u_token)
        delta_next = tl.load(delta + token * delta_token)
        B_next = tl.load(B + token * B_token, mask=n < state_size, other=0.0)
        dl = step_size(delta_t, shift, SOFTPLUS)
        total += dl
        h = _forward_step(h, u_t.to(tl.float32), dl, B_t.to(tl.float32), decay, EXACT)
        u_t, delta_t, B_t = u_next, delta_next, B_next

    inside = (n < state_size)[:, None] & (d < channels)[None, :]
    slot = sequence * slots + (run + 1) * slots_per_run
    tl.store(states + slot * state_size * channels + n[:, None] * channels + d[None, :], h, mask=inside)
    tl.store(delta_sums + (sequence * runs + run + 1) * channels + d, total, mask=d < _if(state_block == 0, channels))


@triton.jit
def _carry(first_decay, first_state, then_decay, then_state):
    # A growing mode may be infinite over a run, and does not move a state of zero.
    return first_decay * then_decay, tl.where(first_state == 0, 0.0, then_decay * first_state) + then_state


# Not even for the number of channels: where rows may begin anywhere, a thread has a channel of its own, and carrying
# over runs is a loop within it.
@triton.jit(do_not_specialize=(*_GENERAL, "channels", "state_size"))
def carry_kernel(
    A, states, delta_sums, directions, channels, state_size, slots, runs, slots_per_run, reverse,
    BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """Turn what each run adds into each run's initial state, in place, BT runs at a time.

    The first slot in the order of travel is the zero state. `reverse` travels from the last run to the first.
    """
    pid = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BD)
    column = tl.minimum((pid % channel_blocks) * BD + tl.arange(0, BD), channels - 1)
    n = (pid // channel_blocks) % state_size
    sequence = (pid // channel_blocks // state_size).to(tl.int64)
    rate = tl.load(A + (sequence % directions * state_size + n) * channels + column) * LOG2_E
    # From run to run on the way, in both tensors.
    run_size = channels.to(tl.int64)
    first_run = tl.where(reverse != 0, runs - 1, 0)
    delta_sums += (sequence * runs + first_run) * run_size
    run_stride = tl.where(reverse != 0, -run_size, run_size)
    slot_stride = run_stride * slots_per_run * state_size
    states += ((sequence * slots + first_run * slots_per_run) * state_size + n) * run_size

    steps = tl.arange(0, BT)
    of_steps = steps.to(tl.int64)[:, None] * slot_stride + column[None, :]
    sums_of_steps = steps.to(tl.int64)[:, None] * run_stride + column[None, :]
    state = tl.zeros([BD], tl.float32)
    added = ((steps > 0) & (steps < runs))[:, None]
    addend = tl.load(states + of_steps, mask=added, other=0.0)
    delta_sum = tl.load(delta_sums + sums_of_steps, mask=added, other=0.0)
    for first in range(0, runs, BT):
        # The next runs are on their way while these are carried over.
        delta_sums += BT * run_stride
        there = (first + BT + steps < runs)[:, None]
        next_addend = tl.load(states + BT * slot_stride + of_steps, mask=there, other=0.0)
        next_delta_sum = tl.load(delta_sums + sums_of_steps, mask=there, other=0.0)
        decay, addend = tl.associative_scan((tl.exp2(delta_sum * rate[None, :]), addend), 0, _carry)
        result = tl.where(state[None, :] == 0, 0.0, decay * state[None, :]) + addend
        tl.store(states + of_steps, result, mask=(first + steps < runs)[:, None])
        state = tl.sum(tl.where((steps == BT - 1)[:, None], result, 0.0), 0)
        states += BT * slot_stride
        addend, delta_sum = next_addend, next_delta_sum


@triton.jit(do_not_specialize=_GENERAL)
def scan_kernel(
    u, delta, A, B, C, D, bias, paths, states, parts,
    u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token,
    B_batch, B_direction, B_token, C_batch, C_direction, C_token,
    directions, length, channels, state_size, slots, runs, slots_per_run, interval,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """y of each run from its initial state, in parts per block of states, and the state before each interval."""
    EXACT: tl.constexpr = delta.dtype.element_ty == tl.float32
    state_blocks = tl.cdiv(state_size, BN)
    sequence, batch, direction, run, block = _coordinates(directions, runs, tl.cdiv(channels, BD) * state_blocks)
    n, d, state_block = _tile(block, channels, state_size, BN, BD)
    decay = _decay_rates(A + direction * state_size * channels, n, d, channels, state_size)
    shift = _optional_row(bias + direction * channels, d, channels, HAS_BIAS, BD)
    skip = _optional_row(D + direction * channels, d, channels, HAS_D, BD)
    skip = tl.where(state_block == 0, skip, 0.0)
    path = paths + direction * length

    column = tl.minimum(d, channels - 1)
    u += batch * u_batch + direction * u_direction + column
    delta += batch * delta_batch + direction * delta_direction + column
    B += batch * B_batch + direction * B_direction + n
    C += batch * C_batch + direction * C_direction + n
    parts += (sequence * state_blocks + state_block) * length * channels + d

    inside = (n < state_size)[:, None] & (d < channels)[None, :]
    states += n[:, None] * channels + d[None, :]
    slots_before = sequence * slots
    first_slot = run * slots_per_run
    last_slot = tl.minimum(first_slot + slots_per_run, slots)
    carried = (n < _if(run > 0, state_size))[:, None] & (d < channels)[None, :]
    h = tl.load(states + (slots_before + first_slot) * state_size * channels, mask=carried, other=0.0)

    token = _token(path, first_slot * interval, WIDE)
    u_t, delta_t = tl.load(u + token * u_token), tl.load(delta + token * delta_token)
    B_t = tl.load(B + token * B_token, mask=n < state_size, other=0.0)
    C_t = tl.load(C + token * C_token, mask=n < state_size, other=0.0)
    for slot in range(first_slot, last_slot):
        tl.store(states + (slots_before + slot) * state_size * channels, h, mask=inside)
        for position in range(slot * interval, tl.minimum(slot * interval + interval, length)):
            following = _token(path, tl.minimum(position + 1, length - 1), WIDE)
            u_next = tl.load(u + following * u_token)
            delta_next = tl.load(delta + following * delta_token)
            B_next = tl.load(B + following * B_token, mask=n < state_size, other=0.0)
            C_next = tl.load(C + following * C_token, mask=n < state_size, other=0.0)
            u_t = u_t.to(tl.float32)
            dl = step_size(delta_t, shift, SOFTPLUS)
            h = _forward_step(h, u_t, dl, B_t.to(tl.float32), decay, EXACT)
            y = tl.sum(h * C_t.to(tl.float32)[:, None], 0) + skip * u_t
            tl.store(parts + token * channels, saturated(y, parts.dtype.element_ty), mask=d < channels)
            token, u_t, delta_t, B_t, C_t = following, u_next, delta_next, B_next, C_next


@triton.jit(do_not_specialize=_GENERAL)
def run_adjoint_kernel(
    g, delta, A, C, bias, paths, adjoints, delta_sums,
    g_batch, g_token, delta_batch, delta_direction, delta_token, C_batch, C_direction, C_token,
    directions, length, channels, state_size, runs, slots_per_run, interval,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, WIDE: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """What each run but the first hands back to the run before it, from nothing behind it, and its sum of dl.

    The adjoint of the state after a token is p = exp(dl' A) (C' g' + p'), the primes standing for the next token.
    """
    EXACT: tl.constexpr = delta.dtype.element_ty == tl.float32
    blocks = tl.cdiv(channels, BD) * tl.cdiv(state_size, BN)
    sequence, batch, direction, run, block = _coordinates(directions, runs - 1, blocks)
    n, d, state_block = _tile(block, channels, state_size, BN, BD)
    decay = _decay_rates(A + direction * state_size * channels, n, d, channels, state_size)
    shift = _optional_row(bias + direction * channels, d, channels, HAS_BIAS, BD)
    path = paths + direction * length

    column = tl.minimum(d, channels - 1)
    g += batch * g_batch + column
    delta += batch * delta_batch + direction * delta_direction + column
    C += batch * C_batch + direction * C_direction + n

    p = tl.zeros([BN, BD], tl.float32)
    total = tl.zeros([BD], tl.float32)
    start = (run + 1) * slots_per_run * interval
    stop = tl.minimum(start + slots_per_run * interval, length)
    token = _token(path, stop - 1, WIDE)
    g_t, delta_t = tl.load(g + token * g_token), tl.load(delta + token * delta_token)
    C_t = tl.load(C + token * C_token, mask=n < state_size, other=0.0)
    for step in range(0, stop - start):
        token = _token(path, tl.maximum(stop - 2 - step, start), WIDE)
        g_next = tl.load(g + token * g_token)
        delta_next = tl.load(delta + token * delta_token)
        C_next = tl.load(C + token * C_token, mask=n < state_size, other=0.0)
        dl = step_size(delta_t, shift, SOFTPLUS)
        total += dl
        p = _decayed(C_t.to(tl.float32)[:, None] * g_t.to(tl.float32)[None, :] + p, dl, decay, EXACT)
        g_t, delta_t, C_t = g_next, delta_next, C_next

    inside = (n < state_size)[:, None] & (d < channels)[None, :]
    tl.store(
        adjoints + (sequence * runs + run) * state_size * channels + n[:, None] * channels + d[None, :], p, mask=inside
    )
    tl.store(delta_sums + (sequence * runs + run) * channels + d, total, mask=d < _if(state_block == 0, channels))


@triton.jit
def _accumulate(pointers, value, indices, size, size_before):
    """Store value at indices below size, on top of what is there at indices below size_before."""
    before = tl.load(pointers, mask=indices < size_before, other=0.0)
    tl.store(pointers, before + value, mask=indices < size)


@triton.jit
def _read(
    u, delta, g, B, C, path, position, stop, u_token, delta_token, g_token, B_token, C_token, shift,
    states, columns, channels, state_size, SOFTPLUS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A token's rows; at positions past the end a token that changes nothing (dl = 0, g = 0)."""
    token = _token(path, tl.minimum(position, stop - 1), WIDE)
    x = tl.load(delta + token * delta_token).to(tl.float32) + shift
    dl = tl.where(position < stop, softplus(x) if SOFTPLUS else x, 0.0)
    g_t = tl.load(g + token * g_token, mask=columns < _if(position < stop, channels), other=0.0).to(tl.float32)
    u_t = tl.load(u + token * u_token).to(tl.float32)
    B_t = tl.load(B + token * B_token, mask=states < state_size, other=0.0)
    C_t = tl.load(C + token * C_token, mask=states < state_size, other=0.0)
    return token, u_t, x, dl, g_t, B_t, C_t


@triton.jit
def _backward_step(
    p, h, dA, dD, dbias, token, u_t, x, dl, g_t, B_t, C_t, decay, skip, du, ddelta, dB,
    states, columns, channels, state_size, size_before, valid, SOFTPLUS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Step back over a token: h is the state before it, p the adjoint of the state after it; stores its gradients."""
    p += C_t.to(tl.float32)[:, None] * g_t[None, :]
    dB_t = tl.sum(p * (dl * u_t)[None, :], 1)
    _accumulate(dB + token * state_size, dB_t, states, _if(valid, state_size), _if(valid, size_before))
    through_input = tl.sum(p * B_t.to(tl.float32)[:, None], 0)
    p = _decayed(p, dl, decay, EXACT)
    through_decay = p * h
    slope = through_input * u_t + tl.sum(through_decay * decay, 0) * LN_2
    if SOFTPLUS:
        slope *= sigmoid(x)
    slope = tl.where(valid, slope, 0.0)
    inside = columns < _if(valid, channels)
    tl.store(du + token * channels, (through_input * dl + skip * g_t).to(du.dtype.element_ty), mask=inside)
    tl.store(ddelta + token * channels, slope.to(ddelta.dtype.element_ty), mask=inside)
    return p, dA + through_decay * dl[None, :], dD + g_t * u_t, dbias + slope


@triton.jit(do_not_specialize=_GENERAL)
def adjoint_kernel(
    g, u, delta, A, B, C, D, bias, paths, states, adjoints, scratch,
    parts, du, ddelta, dA, dB, dC, dD, dbias,
    g_batch, g_token, u_batch, u_direction, u_token, delta_batch, delta_direction, delta_token,
    B_batch, B_direction, B_token, C_batch, C_direction, C_token,
    directions, length, channels, state_size, slots, runs, slots_per_run, interval, groups, blocks_per_group, sequences,
    SOFTPLUS: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_D: tl.constexpr, GATED: tl.constexpr, WIDE: tl.constexpr,
    BN: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """All gradients of each run. A program takes a group of channel blocks in turn and adds up their dB and dC.

    Per interval: walk forwards from the saved state, keeping the state before every second token and, if GATED, making
    y again, in parts per block of states; then backwards, two tokens at a time, the state between them made again.
    """
    EXACT: tl.constexpr = delta.dtype.element_ty == tl.float32
    state_blocks = tl.cdiv(state_size, BN)
    sequence, batch, direction, run, block = _coordinates(directions, runs, groups * state_blocks)
    group, state_block = block % groups, block // groups
    n = state_block * BN + tl.arange(0, BN)
    path = paths + direction * length
    parameters = direction * channels
    A += parameters * state_size
    B += batch * B_batch + direction * B_direction + n
    C += batch * C_batch + direction * C_direction + n
    dB += (group * sequences + sequence) * length * state_size + n
    dC += (group * sequences + sequence) * length * state_size + n
    pairs = tl.cdiv(interval, 2)
    entry = tl.arange(0, BN)[:, None] * BD + tl.arange(0, BD)[None, :]
    scratch += tl.program_id(0).to(tl.int64) * pairs * BN * BD + entry
    first_slot = run * slots_per_run
    last_slot = tl.minimum(first_slot + slots_per_run, slots)
    channel_blocks = tl.cdiv(channels, BD)
    first_block = group * blocks_per_group

    for channel_block in range(first_block, tl.minimum(first_block + blocks_per_group, channel_blocks)):
        size_before = _if(channel_block > first_block, state_size)
        d = channel_block * BD + tl.arange(0, BD)
        column = tl.minimum(d, channels - 1)
        decay = _decay_rates(A, n, d, channels, state_size)
        shift = _optional_row(bias + parameters, d, channels, HAS_BIAS, BD)
        skip = _optional_row(D + parameters, d, channels, HAS_D, BD)
        skip = tl.where(state_block == 0, skip, 0.0)
        u_row = u + batch * u_batch + direction * u_direction + column
        delta_row = delta + batch * delta_batch + direction * delta_direction + column
        g_row = g + batch * g_batch + column
        part = (sequence * state_blocks + state_block) * length * channels + d
        du_row = du + part
        ddelta_row = ddelta + part
        parts_row = parts + part
        inside = (n < state_size)[:, None] & (d < channels)[None, :]
        tile = n[:, None] * channels + d[None, :]
        of_run = (sequence * runs + run) * state_size * channels + tile
        carried = (n < _if(run < runs - 1, state_size))[:, None] & (d < channels)[None, :]

        p = tl.load(adjoints + of_run, mask=carried, other=0.0)
        dA_run = tl.zeros([BN, BD], tl.float32)
        dD_run = tl.zeros([BD], tl.float32)
        dbias_run = tl.zeros([BD], tl.float32)
        for back in range(0, last_slot - first_slot):
            slot = last_slot - 1 - back
            start = slot * interval
            stop = tl.minimum(start + interval, length)
            h = tl.load(states + (sequence * slots + slot) * state_size * channels + tile, mask=inside, other=0.0)
            token = _token(path, start, WIDE)
            u_t, delta_t = tl.load(u_row + token * u_token), tl.load(delta_row + token * delta_token)
            g_t = tl.load(g_row + token * g_token, mask=d < channels, other=0.0)
            B_t = tl.load(B + token * B_token, mask=n < state_size, other=0.0)
            C_t = tl.load(C + token * C_token, mask=n < state_size, other=0.0)
            for position in range(start, stop):
                # The next token's rows are on their way while this one's are used.
                following = _token(path, tl.minimum(position + 1, stop - 1), WIDE)
                u_next, delta_next = tl.load(u_row + following * u_token), tl.load(delta_row + following * delta_token)
                g_next = tl.load(g_row + following * g_token, mask=d < channels, other=0.0)
                B_next = tl.load(B + following * B_token, mask=n < state_size, other=0.0)
                C_next = tl.load(C + following * C_token, mask=n < state_size, other=0.0)
                if (position - start) % 2 == 0:
                    tl.store(scratch + (position - start) // 2 * BN * BD, h)
                u_t = u_t.to(tl.float32)
                dl = step_size(delta_t, shift, SOFTPLUS)
                h = _forward_step(h, u_t, dl, B_t.to(tl.float32), decay, EXACT)
                dC_t = tl.sum(h * g_t.to(tl.float32)[None, :], 1)
                _accumulate(dC + token * state_size, dC_t, n, state_size, size_before)
                if GATED:
                    y = tl.sum(h * C_t.to(tl.float32)[:, None], 0) + skip * u_t
                    tl.store(parts_row + token * channels, saturated(y, parts.dtype.element_ty), mask=d < channels)
                token, u_t, delta_t, g_t, B_t, C_t = following, u_next, delta_next, g_next, B_next, C_next
            tl.debug_barrier()  # what one thread of the program stored another may read

            for pair in range(0, tl.cdiv(stop - start, 2)):
                index = tl.cdiv(stop - start, 2) - 1 - pair
                position = start + index * 2
                t0, u0, x0, dl0, g0, B0, C0 = _read(
                    u_row, delta_row, g_row, B, C, path, position, stop, u_token, delta_token, g_token, B_token,
                    C_token, shift, n, d, channels, state_size, SOFTPLUS, WIDE,
                )  # fmt: skip
                t1, u1, x1, dl1, g1, B1, C1 = _read(
                    u_row, delta_row, g_row, B, C, path, position + 1, stop, u_token, delta_token, g_token, B_token,
                    C_token, shift, n, d, channels, state_size, SOFTPLUS, WIDE,
                )  # fmt: skip
                h0 = tl.load(scratch + index * BN * BD)
                h1 = _forward_step(h0, u0, dl0, B0.to(tl.float32), decay, EXACT)
                p, dA_run, dD_run, dbias_run = _backward_step(
                    p, h1, dA_run, dD_run, dbias_run, t1, u1, x1, dl1, g1, B1, C1, decay, skip, du_row, ddelta_row, dB,
                    n, d, channels, state_size, size_before, position + 1 < stop, SOFTPLUS, EXACT,
                )  # fmt: skip
                p, dA_run, dD_run, dbias_run = _backward_step(
                    p, h0, dA_run, dD_run, dbias_run, t0, u0, x0, dl0, g0, B0, C0, decay, skip, du_row, ddelta_row, dB,
                    n, d, channels, state_size, size_before, position < stop, SOFTPLUS, EXACT,
                )  # fmt: skip
            tl.debug_barrier()

        tl.store(dA + of_run, dA_run, mask=inside)
        rows = sequence * runs + run
        tl.store(dD + rows * channels + d, dD_run, mask=d < _if(state_block == 0, channels))
        tl.store(dbias + (rows * state_blocks + state_block) * channels + d, dbias_run, mask=d < channels)


@triton.jit
def _positions(length, channels, BT: tl.constexpr, BD: tl.constexpr):
    """Sequence, block of positions, and the positions and channels of this program's tile."""
    pid = tl.program_id(0)
    channel_blocks = tl.cdiv(channels, BD)
    time_blocks = tl.cdiv(length, BT)
    d = (pid % channel_blocks) * BD + tl.arange(0, BD)
    block = pid // channel_blocks % time_blocks
    return (pid // channel_blocks // time_blocks).to(tl.int64), block, block * BT + tl.arange(0, BT), d


@triton.jit
def _sum_of_parts(parts, count, size, tile, inside, BT: tl.constexpr, BD: tl.constexpr):
    total = tl.zeros([BT, BD], tl.float32)
    for part in range(0, count):
        total += tl.load(parts + part * size + tile, mask=inside, other=0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=_GENERAL)
def gate_kernel(parts, z, out, z_batch, z_token, count, length, channels, BT: tl.constexpr, BD: tl.constexpr):
    """out = silu(z) times the sum of `count` parts."""
    batch, _, token, d = _positions(length, channels, BT, BD)
    inside = (token < length)[:, None] & (d < channels)[None, :]
    token = token.to(tl.int64)[:, None]
    tile = token * channels + d[None, :]
    size = length.to(tl.int64) * channels
    total = _sum_of_parts(parts + batch * count * size, count, size, tile, inside, BT, BD)
    gate = tl.load(z + batch * z_batch + token * z_token + d[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + batch * size + tile, (total * gate * sigmoid(gate)).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_GENERAL)
def gate_backward_kernel(
    parts, z, grad_out, dz, z_batch, z_token, grad_batch, grad_token, count, length, channels,
    BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dz, from the gradient of `gate_kernel`'s result."""
    batch, _, token, d = _positions(length, channels, BT, BD)
    inside = (token < length)[:, None] & (d < channels)[None, :]
    token = token.to(tl.int64)[:, None]
    tile = token * channels + d[None, :]
    size = length.to(tl.int64) * channels
    total = _sum_of_parts(parts + batch * count * size, count, size, tile, inside, BT, BD)
    gate = tl.load(z + batch * z_batch + token * z_token + d[None, :], mask=inside, other=0.0).to(tl.float32)
    rows = grad_out + batch * grad_batch
    grad = tl.load(rows + token * grad_token + d[None, :], mask=inside, other=0.0).to(tl.float32)
    logistic = sigmoid(gate)
    slope = logistic * (1.0 + gate * (1.0 - logistic))
    tl.store(dz + batch * size + tile, (grad * total * slope).to(dz.dtype.element_ty), mask=inside)


@triton.jit
def _taps(x, weight, bias, path, position, d, x_token, length, channels, HAS_BIAS, W, BT, BD):
    """The causal convolution at `position`, (BT, BD), before any activation."""
    result = tl.zeros([BT, BD], tl.float32) + _optional_row(bias, d, channels, HAS_BIAS, BD)[None, :]
    for tap in tl.static_range(W):
        tap_weight = tl.load(weight + d * W + tap, mask=d < channels, other=0.0)
        result += tap_weight[None, :] * _visited(x, path, position - (W - 1 - tap), d, x_token, length, channels)
    return result


@triton.jit
def _visited(x, path, position, d, x_token, length, channels):
    """The rows of the tokens at `position`, (BT, BD), zeros outside the path."""
    on_path = (position >= 0) & (position < length)
    token = tl.load(path + position, mask=on_path, other=0).to(tl.int64)
    inside = on_path[:, None] & (d < channels)[None, :]
    return tl.load(x + token[:, None] * x_token + d[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=_GENERAL)
def conv_kernel(
    x, weight, bias, paths, out, x_batch, x_direction, x_token, directions, length, channels,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The causal depthwise convolution along each path."""
    sequence, _, position, d = _positions(length, channels, BT, BD)
    direction = sequence % directions
    path = paths + direction * length
    x += sequence // directions * x_batch + direction * x_direction
    parameters = direction * channels
    y = _taps(
        x, weight + parameters * W, bias + parameters, path, position, d, x_token, length, channels, HAS_BIAS, W, BT, BD
    )
    if SILU:
        y *= sigmoid(y)
    token = tl.load(path + position, mask=position < length, other=0).to(tl.int64)
    inside = (position < length)[:, None] & (d < channels)[None, :]
    out += sequence * length * channels
    tl.store(out + token[:, None] * channels + d[None, :], y.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_GENERAL)
def conv_weight_gradient_kernel(
    grad_out, x, weight, bias, paths, grad_y, dweight, dbias,
    grad_batch, grad_direction, grad_token, x_batch, x_direction, x_token, directions, length, channels,
    SILU: tl.constexpr, HAS_BIAS: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """The gradient before the activation, at its token, and each tile's share of dweight and dbias."""
    sequence, block, position, d = _positions(length, channels, BT, BD)
    direction = sequence % directions
    path = paths + direction * length
    x += sequence // directions * x_batch + direction * x_direction
    grad_out += sequence // directions * grad_batch + direction * grad_direction
    parameters = direction * channels
    grad = _visited(grad_out, path, position, d, grad_token, length, channels)
    if SILU:
        y = _taps(
            x, weight + parameters * W, bias + parameters, path, position, d, x_token, length, channels,
            HAS_BIAS, W, BT, BD,
        )  # fmt: skip
        logistic = sigmoid(y)
        grad *= logistic * (1.0 + y * (1.0 - logistic))
        token = tl.load(path + position, mask=position < length, other=0).to(tl.int64)
        inside = (position < length)[:, None] & (d < channels)[None, :]
        pointers = grad_y + sequence * length * channels + token[:, None] * channels + d[None, :]
        tl.store(pointers, saturated(grad, grad_y.dtype.element_ty), mask=inside)
    share = (sequence * tl.cdiv(length, BT) + block) * channels + d
    for tap in tl.static_range(W):
        seen = _visited(x, path, position - (W - 1 - tap), d, x_token, length, channels)
        tl.store(dweight + share * W + tap, tl.sum(grad * seen, 0), mask=d < channels)
    tl.store(dbias + share, tl.sum(grad, 0), mask=d < channels)


@triton.jit(do_not_specialize=_GENERAL)
def conv_input_gradient_kernel(
    grad_y, weight, paths, inverse, dx, grad_batch, grad_direction, grad_token, outputs, directions, length, channels,
    W: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    """dx of each token, for each of `outputs` copies of x: one per direction, or one that all directions share."""
    target, _, token, d = _positions(length, channels, BT, BD)
    batch, of_each = target // outputs, directions // outputs
    inside = (token < length)[:, None] & (d < channels)[None, :]
    total = tl.zeros([BT, BD], tl.float32)
    for direction in range(target % outputs * of_each, (target % outputs + 1) * of_each):
        path = paths + direction * length
        position = tl.load(inverse + direction * length + token, mask=token < length, other=length)
        rows = grad_y + batch * grad_batch + direction * grad_direction
        for tap in tl.static_range(W):
            tap_weight = tl.load(weight + (direction * channels + d) * W + tap, mask=d < channels, other=0.0)
            seen_by = position + (W - 1 - tap)
            total += tap_weight[None, :] * _visited(rows, path, seen_by, d, grad_token, length, channels)
    dx += target * length * channels
    tl.store(dx + token.to(tl.int64)[:, None] * channels + d[None, :], total.to(dx.dtype.element_ty), mask=inside)
