"""Going on without ``torch.compile`` where it cannot compile a network: what failed, and the modules without it."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba.ops.backends import triton_devices
from nnunetv2_mamba.ops.device_errors import ends_the_device, ran_out_of_memory

# Compiling happens here. The backward pass is compiled when it first runs, where torch wraps no error of its compilers.
_COMPILERS = ("torch._inductor", "torch._dynamo.backends", "torch._dynamo.output_graph", "triton")

_PATIENCE = timedelta(minutes=5)  # NCCL ends a process that has waited for ten, and says nothing of the reason


def compiler_problem(device: torch.device) -> str | None:
    """Say why ``torch.compile`` cannot work for a device, with the remedy; None if nothing is known against it.

    On a GPU it makes Triton kernels, as the scans here are, and their launchers need a C compiler and Python's headers.

    Raises:
        CheckPostponedError: if the device has no memory or is in use.
    """
    return triton_devices.available(device) if device.type == "cuda" else None


def is_compiled(module: nn.Module) -> bool:
    """Say whether the module or a part of it runs through ``torch.compile``."""
    return any(isinstance(part, OptimizedModule) for part in module.modules())


def is_compiler_error(error: BaseException) -> bool:
    """Say whether ``torch.compile`` failed, of its own, for want of a C compiler, or for what it met in the network.

    The last may be the network's own error, which comes again without it. Running out of memory is none of these, nor
    is an error on the GPU, after which nothing runs there any more.
    """
    if ran_out_of_memory(error) or ends_the_device(error) or "CUDA error" in str(error):
        return False
    return any(isinstance(each, TorchDynamoException) or _raised_by_a_compiler(each) for each in _chain(error))


def await_failure_of_all(training: str, reason: str) -> None:
    """Wait until ``torch.compile`` has failed in every process of a distributed training, as it mostly does.

    Where it has not, the others wait for this one's gradients, and none of them can be asked to stop compiling.

    Args:
        training: names it among those of the process group.
        reason: why it failed here.

    Raises:
        RuntimeError: if it has not failed in all within ``_PATIENCE``.
    """
    from torch.distributed.distributed_c10d import _get_default_store  # not every build of torch has it

    store, rank, processes = _get_default_store(), dist.get_rank(), dist.get_world_size()
    failed = [f"torch.compile failed, {training}, {number}" for number in range(processes)]
    store.set(failed[rank], "")
    try:
        store.wait(failed, _PATIENCE)
    except RuntimeError as error:
        raise RuntimeError(
            f"torch.compile failed on GPU {rank}, and not on all {processes} ({reason}); train with "
            "nnUNet_compile=false in the environment"
        ) from error


def uncompiled(module: nn.Module) -> nn.Module:
    """Return ``module`` with every compiled part replaced by the original, in place where it is inside.

    A failed backward pass leaves ``DistributedDataParallel`` waiting for gradients, so each is wrapped anew; every
    process must call this.
    """
    bare = _uncompiled(module)
    gc.collect()  # the hooks of an old wrapper that something still held would answer the next backward pass too
    return bare


def _uncompiled(module: nn.Module) -> nn.Module:
    if isinstance(module, OptimizedModule):
        return _uncompiled(module._orig_mod)
    if isinstance(module, DistributedDataParallel):
        return DistributedDataParallel(_uncompiled(module.module), device_ids=module.device_ids)
    for name, child in module.named_children():
        bare = _uncompiled(child)
        if bare is not child:
            setattr(module, name, bare)
    return module


def _raised_by_a_compiler(error: BaseException) -> bool:
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(module == name or module.startswith(f"{name}.") for module in modules for name in _COMPILERS)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
