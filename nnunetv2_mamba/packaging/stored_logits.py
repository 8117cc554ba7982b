"""The logits of a case, kept outside of the memory: written plane by plane, as tiles end, and read class by class."""

from __future__ import annotations

import io
import math
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch

from ..text import times

_IN_MEMORY = 1 << 30  # bytes up to which no file is needed


class StoredLogits:
    """Logits ``(heads, *spatial)``, by default in half precision, in which nnU-Net keeps them, too.

    Above a gigabyte they are in a temporary file without a name, which the system removes with the process. It is read
    and written in parts, not mapped, so that none of it counts as memory of the process. Close it, or use it as a
    context.

    Args:
        shape: heads and three axes.
        folder: where the file is; None for the system's folder of temporary files.
        dtype: of the values.

    Raises:
        OSError: where the folder has no room, naming it.
    """

    def __init__(self, shape: Sequence[int], folder: Path | None = None, dtype: type[np.floating] = np.float16):
        self.shape, self._dtype = tuple(shape), np.dtype(dtype)
        self._plane_bytes = self._dtype.itemsize * math.prod(self.shape[2:])
        size = self._plane_bytes * self.shape[0] * self.shape[1]
        self._file = io.BytesIO() if size <= _IN_MEMORY else _temporary_file(size, folder, self.shape, self._dtype)

    def __enter__(self) -> StoredLogits:
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def write_plane(self, index: int, plane: torch.Tensor) -> None:
        """Write what is at one index of the first axis: ``(heads, *spatial[1:])`` of the type here, on the CPU."""
        for head, values in enumerate(plane.numpy()):
            self._seek(head, index)
            self._file.write(np.ascontiguousarray(values).data)

    def read_plane(self, index: int) -> torch.Tensor:
        plane = np.empty((self.shape[0], *self.shape[2:]), dtype=self._dtype)
        for head, values in enumerate(plane):
            self._seek(head, index)
            self._file.readinto(values)
        return torch.from_numpy(plane)

    def read_head(self, head: int) -> np.ndarray:
        """The logits of one class or region, ``(1, *spatial)``."""
        values = np.empty((1, *self.shape[1:]), dtype=self._dtype)
        self._seek(head, 0)
        self._file.readinto(values)
        return values

    def write_head(self, head: int, values: np.ndarray) -> None:
        """Write the values of one class or region, ``spatial``, of the type here."""
        self._seek(head, 0)
        self._file.write(np.ascontiguousarray(values).data)

    def _seek(self, head: int, index: int) -> None:
        self._file.seek((head * self.shape[1] + index) * self._plane_bytes)


def _temporary_file(size: int, folder: Path | None, shape: Sequence[int], dtype: np.dtype) -> io.BufferedRandom:
    folder = tempfile.gettempdir() if folder is None else folder
    free = shutil.disk_usage(folder).free
    if free < size:
        bits = 8 * dtype.itemsize
        raise OSError(
            f"{folder} has {free / 1e9:.1f} GB free, and the logits of this image, {times(shape)} in {bits} bits, take "
            f"{size / 1e9:.1f} GB: choose an output folder (in a container, TMPDIR) on a disk with room"
        )
    return tempfile.TemporaryFile(dir=folder)
