"""Follows which tensors are alive and what they hold. For fake tensors and real ones.

As ``torch.distributed._tools.mem_tracker.MemTracker``, which cannot follow a module that is called twice (nnU-Net's
loss, under deep supervision) and takes several times as long, because it also keeps a history of every module.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

KINDS = ("parameters", "gradients", "optimizer", "activations", "temporary")


class AllocationTracker(TorchDispatchMode):
    """While entered, counts the bytes of every storage that an operator makes until it is freed.

    Attributes:
        kind: what new storages are counted as, one of ``KINDS``; set it as a step goes on.
        used: bytes in use now, by kind.
        peak: ``used`` at the moment when their sum was largest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kind = "activations"
        self.used = dict.fromkeys(KINDS, 0)
        self.peak = dict(self.used)
        self._kinds: dict[int, str] = {}  # by the address of the storage

    def count(self, tensors: Iterable[torch.Tensor], kind: str) -> None:
        """Count these tensors as ``kind``, whatever they were counted as."""
        for tensor in tensors:
            self._track(tensor)
            storage = tensor.untyped_storage()
            self.used[self._kinds[storage._cdata]] -= storage.nbytes()
            self.used[kind] += storage.nbytes()
            self._kinds[storage._cdata] = kind

    def count_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """From now on, count the gradients of these parameters as such."""
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(lambda p: self.count([p.grad], "gradients"))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._track, result)
        if sum(self.used.values()) > sum(self.peak.values()):
            self.peak = dict(self.used)
        return result

    def _track(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._kinds:
            self._kinds[storage._cdata] = self.kind
            self.used[self.kind] += storage.nbytes()
            weakref.finalize(storage, self._free, storage._cdata, storage.nbytes()).atexit = False

    def _free(self, address: int, size: int) -> None:
        self.used[self._kinds.pop(address)] -= size
