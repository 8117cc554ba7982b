"""A stranger's checkpoint, read as plain data: no code of it runs, and it takes no more memory than it has bytes."""

from __future__ import annotations

import io
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from .pickle_calls import check_calls


def read_plain(file: Path | BinaryIO, name: object = None, weights: bool = True) -> Any:
    """Load a file of tensors, plain containers and numpy's numbers, as nnU-Net's checkpoints hold in their logs.

    Nothing is read that the file does not have: not more bytes than its own, however it is compressed or what it
    declares.

    Args:
        name: of the file in messages; ``file`` where None.
        weights: whether the tensors will be used; if not, they stay in the file, which must be a path.

    Raises:
        OSError: where it cannot be read.
        ValueError: for a file that is damaged, or that would take more memory than it has bytes.
        pickle.UnpicklingError: for any other object; none of its code is run.
    """
    name = file if name is None else name
    scalar = np.float64(0).__reduce__()[0]  # numpy's constructor of numbers, wherever this version has it
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i8")]
    safe = [*((scalar, name) for name in names), (_number_dtype, "numpy.dtype"), *kinds]
    try:
        size = _check_size(file)
        with torch.serialization.safe_globals(safe):
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=not weights)
        _check_tensors(content, size)
    except pickle.UnpicklingError as error:  # PyTorch's message advises to read such files with their objects
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise pickle.UnpicklingError(
            f"{name} holds more than weights and numbers{what}, so it is not read: pickled objects may run code"
        ) from None
    except Exception as error:  # torch raises several kinds: zip, end of file, what a pickle's commands may do
        if isinstance(error, OSError) and error.filename is not None:  # none of a file that is cut short
            raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{name} is damaged or no checkpoint: {reason or type(error).__name__}") from None
    return content


def _number_dtype(kind: str, *options: bool) -> np.dtype:
    """numpy's dtype of a number; others may be of any size."""
    dtype = np.dtype(kind, *options)
    if dtype.kind not in "biuf":
        raise ValueError(f"numpy data of {dtype}")
    return dtype


def _check_size(file: Path | BinaryIO) -> int:
    """The bytes that a file may take in memory: its own. PyTorch compresses nothing and stores each record once."""
    if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("it is no file")
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        is_zip = stream.read(4) == b"PK\x03\x04"  # as PyTorch decides, and not zipfile
        stream.seek(0)
        if is_zip:
            _check_members(stream, size)
        else:  # PyTorch's format before ZIP files: these pickles, then the weights
            for _ in ("magic number", "version", "system", "content", "storages"):
                check_calls(stream)
        stream.seek(0)
    return size


def _check_members(stream: BinaryIO, size: int) -> None:
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError("it has compressed members, which PyTorch does not write")
        if sum(member.file_size for member in members) > size:
            raise ValueError("its members are larger than the file")
        for member in members:
            if member.filename.endswith(".pkl"):
                check_calls(io.BytesIO(archive.read(member)))


def _check_tensors(content: Any, size: int) -> None:
    pending, seen, storages = [content], set(), {}
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            pending += value.values()
        elif isinstance(value, list | tuple | set):
            pending += value
        elif isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            if value.numel() * value.element_size() > storage.nbytes():
                raise ValueError(f"it has a tensor of shape {tuple(value.shape)} on {storage.nbytes()} bytes")
    if sum(storages.values()) > size:
        raise ValueError("its tensors are larger than the file")
