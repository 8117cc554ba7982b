"""Running out of memory, explained: which plan it was, what a step is estimated to need, what to change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from nnunetv2_mamba.memory.estimate import training_memory, usable_bytes

from .settings import VARIABLE

_GPUS = (80, 48, 40, 32, 24, 16, 12, 8, 6, 4)  # GiB, as sold
_SIGNS = ("out of memory", "can't allocate memory", "Cannot allocate memory")  # CUDA, MPS; torch's CPU allocator; libc


class OutOfMemoryError(torch.OutOfMemoryError):
    """A step needed more memory than there is; says what to change."""


@contextmanager
def out_of_memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Turn the device's error inside this context into one that adds ``explain()``.

    Raises:
        OutOfMemoryError: from the device's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        ran_out = isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(s in str(error) for s in _SIGNS)
        if not ran_out:
            raise
        raise OutOfMemoryError(f"out of memory; {explain()}") from error


def estimated_bytes(
    build: Callable[[], nn.Module], shape: Sequence[int], optimizer: str, autocast: torch.dtype | None
) -> int | None:
    """``training_memory``'s total; None where there is too little memory left to trace it."""
    try:
        return training_memory(build, shape, optimizer, autocast).total
    except (RuntimeError, MemoryError):
        return None


def advice(estimate: int | None, dataset_id: int, network: str, checkpointing: bool) -> str:
    """The next smaller settings than those of a step that needs ``estimate`` bytes.

    Args:
        estimate: None if unknown.
        dataset_id, network: for ``nnunetv2_mamba plan``.
        checkpointing: activation checkpointing is on already.
    """
    remedies = [] if checkpointing else [f"activation_checkpointing=true in {VARIABLE}"]
    smaller = next((gpu for gpu in _GPUS if estimate is not None and usable_bytes(gpu) < estimate), None)
    if estimate is None or smaller is not None:
        size = smaller or "GIB"
        remedies.append(
            f"plans for less memory (nnunetv2_mamba plan -d {dataset_id} --network {network} --gpu-memory {size}, then "
            f"train with -p nnUNet{network}{size}GPlans)"
        )
    else:
        remedies.append("a smaller batch_size or patch_size in the plan")
    return "the next smaller setting is " + ", or ".join(remedies)
