"""What the Triton kernels of both scans compute alike."""

import triton
import triton.language as tl

LARGEST_FP16 = tl.constexpr(65504.0)


@triton.jit
def softplus(x):
    # max(x, 0) + log(1 + e) with e = exp(-|x|), through 2 atanh(e / (2 + e)): no digits lost where e is small.
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    q = s * s
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q / 15))))))
    return tl.maximum(x, 0.0) + 2.0 * s * series


@triton.jit
def sigmoid(x):
    e = tl.exp(-tl.abs(x))
    return tl.where(x < 0, e, 1.0) / (1.0 + e)


@triton.jit
def saturated(x, dtype: tl.constexpr):
    """x in `dtype`; what is beyond the range of fp16 becomes its largest number, since sums of Inf would be NaN."""
    if dtype == tl.float16:
        x = tl.minimum(x, LARGEST_FP16, propagate_nan=tl.PropagateNan.ALL)
        x = tl.maximum(x, -LARGEST_FP16, propagate_nan=tl.PropagateNan.ALL)
    return x.to(dtype)


@triton.jit
def step_size(delta, bias, SOFTPLUS: tl.constexpr):
    x = delta.to(tl.float32) + bias
    return softplus(x) if SOFTPLUS else x
