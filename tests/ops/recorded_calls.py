"""Calls of the CPU library with all that they read and leave in memory, for a program that repeats them elsewhere."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path

from torch import Tensor

from nnunetv2_mamba.ops.backends import cpu_library


class RecordedCalls:
    """Takes the place of ``Call.run``."""

    def __init__(self) -> None:
        self._run = cpu_library.Call.run
        self._calls: list[bytes] = []

    def run(self, call: cpu_library.Call, function: str) -> None:
        """Run a call, and keep it."""
        pointers = _pointers(call.args)
        held = {tensor.data_ptr(): tensor for tensor in call.tensors}
        storages: dict[int, Tensor] = {}
        for _, address in pointers:
            storages.setdefault(held[address].untyped_storage().data_ptr(), held[address])
        before = [_memory(tensor) for tensor in storages.values()]
        self._run(call, function)
        args = bytes(call.args)
        name = f"{function}_{'f64' if call.dtype.itemsize == 8 else 'f32'}".encode()
        parts = [_numbers(len(name)), name, _numbers(len(args)), args, _numbers(len(storages))]
        for tensor, read in zip(storages.values(), before, strict=True):
            size = call.dtype.itemsize if tensor.is_floating_point() else tensor.element_size()
            parts += [_numbers(size, len(read)), read, _memory(tensor)]
        parts.append(_numbers(len(pointers)))
        bases = list(storages)
        for offset, address in pointers:
            base = held[address].untyped_storage().data_ptr()
            parts.append(_numbers(offset, bases.index(base), address - base))
        self._calls.append(b"".join(parts))

    def write(self, file: Path) -> None:
        """Write what was kept as repeat_calls.c reads it."""
        file.write_bytes(_numbers(len(self._calls)) + b"".join(self._calls))


def _pointers(args: ctypes.Structure) -> list[tuple[int, int]]:
    """Where in the structure there is an address, and the address."""
    found = []
    for name, kind in args._fields_:
        value = getattr(args, name)
        address = value.data if isinstance(value, ctypes.Structure) else value if kind is ctypes.c_void_p else None
        if address:
            found.append((getattr(type(args), name).offset, address))
    return found


def _memory(tensor: Tensor) -> bytes:
    storage = tensor.untyped_storage()
    return ctypes.string_at(storage.data_ptr(), storage.nbytes())


def _numbers(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)
