"""What the device can do at most, measured: bytes moved, and exponentials. Floors of the operators follow from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .context import Context
from .measuring import milliseconds
from .operator_cases import Tensors, differentiable

# Exponentials per token, channel, state and direction. A path is cut into runs that are walked side by side, and where
# a run starts is known after all have been walked once: so the forward pass walks twice, and the backward pass walks
# the adjoints of the runs, the states between the saved ones, and back.
FORWARD_EXPONENTIALS = 2
BACKWARD_EXPONENTIALS = 3


@dataclass(frozen=True)
class Ceilings:
    """Of the device: bytes read and written per millisecond, and exponentials per millisecond."""

    bytes_per_ms: float
    exponentials_per_ms: float

    def floors(self, exponentials: int, moved: int) -> tuple[float, float]:
        """Milliseconds for so many exponentials, and for so many bytes."""
        return exponentials / self.exponentials_per_ms, moved / self.bytes_per_ms


def measure_ceilings(context: Context) -> Ceilings:
    """Time a copy much larger than the caches, and a kernel of exponentials alone."""
    source = torch.empty(2**20 if context.is_dry else 2**29, dtype=torch.float16, device=context.device)
    target = torch.empty_like(source)
    copy = milliseconds(context, lambda: target.copy_(source))
    if context.needs_cuda("the ceiling of exponentials by a Triton kernel"):
        x = torch.rand(2**16)
        exponentials = x.numel() / milliseconds(context, lambda: torch.exp2(x, out=x))
    else:
        exponentials = _exponentials_per_ms(context)
    return Ceilings(2 * source.nbytes / copy, exponentials)


def _exponentials_per_ms(context: Context) -> float:
    from .exponentials import exp_kernel

    programs, block, repetitions = 4096, 1024, 1024
    out = torch.empty(programs * block, device=context.device)
    time = milliseconds(context, lambda: exp_kernel[(programs,)](out, repetitions, BLOCK=block, num_warps=4))
    return programs * block * repetitions / time


def scan_floors(ceilings: Ceilings, tensors: Tensors) -> dict[str, float]:
    """Floors of Mamba's scan: exponentials as above, tensors moved once each, by what the results call them."""
    exponentials = tensors["delta"].numel() * tensors["A"].shape[-1]
    inputs = sum(t.nbytes for t in tensors.values() if t is not None)
    rows = tensors["delta"][:, 0].nbytes  # as large as the result
    forward = ceilings.floors(FORWARD_EXPONENTIALS * exponentials, inputs + rows)
    return _named(forward, ceilings.floors(BACKWARD_EXPONENTIALS * exponentials, 2 * inputs + rows))


def ssd_floors(ceilings: Ceilings, tensors: Tensors) -> dict[str, float]:
    """Floors of Mamba-2's scan, which has an exponential per token and head: bytes alone count."""
    inputs = sum(t.nbytes for t in tensors.values() if t is not None)
    rows = tensors["u"].nbytes // (tensors["u"].shape[1] if tensors["u"].ndim == 4 else 1)
    forward, backward = ceilings.floors(0, inputs + rows)[1], ceilings.floors(0, 2 * inputs + rows)[1]
    return {"forward byte floor ms": forward, "backward byte floor ms": backward}


def convolution_floors(ceilings: Ceilings, tensors: Tensors, out: Tensor) -> dict[str, float]:
    """Floors of the convolution: SiLU's exponential per number of the result."""
    x = differentiable(tensors)["x"]
    inputs = x.numel() * x.element_size() + tensors["paths"].nbytes
    forward = ceilings.floors(out.numel(), inputs + out.nbytes)
    return _named(forward, ceilings.floors(out.numel(), 2 * inputs + out.nbytes))


def _named(forward: tuple[float, float], backward: tuple[float, float]) -> dict[str, float]:
    return {
        "forward exp floor ms": forward[0],
        "forward byte floor ms": forward[1],
        "backward exp floor ms": backward[0],
        "backward byte floor ms": backward[1],
    }
