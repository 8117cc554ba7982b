"""What autograd keeps between a forward pass and its backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, UntypedStorage
from torch.autograd.graph import saved_tensors_hooks


def kept_storages(forward: Callable[[], object], without: Iterable[Tensor] = ()) -> list[UntypedStorage]:
    """Every storage that autograd keeps of ``forward()``, once, but for those of ``without``.

    Hooks switch autograd's check off that nothing it keeps was changed in place: gradients are to be tested without.
    """
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # held, so that no other gets its address
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return [storage for address, storage in kept.items() if address not in left_out]


def kept_bytes(forward: Callable[[], object], without: Iterable[Tensor] = ()) -> int:
    """Their size."""
    return sum(storage.nbytes() for storage in kept_storages(forward, without))
