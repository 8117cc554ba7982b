"""Checkpoints that are either there or not, never half-written."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

_SUFFIX = ".partial"


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``checkpoint`` so that a process killed at any moment leaves the old file or the new one at ``path``.

    The bytes go to a temporary file in the same folder (a rename across file systems is not atomic), reach the disk,
    and are renamed.

    Raises:
        OSError: if the file cannot be written (a full disk, a folder without permission); nothing of it is left.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, (OSError, RuntimeError)):  # torch.save turns some of Python's errors into the latter
            raise OSError(
                f"cannot write the checkpoint {path} ({error}). An earlier one there is intact: make room or correct "
                "the permissions, then continue with --c"
            ) from error
        raise
    if os.name == "posix":  # the new name must survive a power cut too; other systems cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load_own_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of this user's own training, trusted as nnU-Net trusts it, without reading the weights yet.

    Raises:
        ValueError: if the file is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    except (RuntimeError, EOFError, UnpicklingError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # this one: cut too short to be mapped
            raise
        raise ValueError(
            f"{path} is damaged and cannot be read ({error}). Move it away: --c then continues from the next best, of "
            "checkpoint_final.pth, checkpoint_latest.pth and checkpoint_best.pth in this order"
        ) from error


def remove_unfinished(folder: Path) -> list[Path]:
    """Delete what killed processes left of ``save_atomically`` in ``folder``; returns the deleted files."""
    unfinished = sorted(folder.glob(f"checkpoint_*{_SUFFIX}"))
    for path in unfinished:
        path.unlink(missing_ok=True)
    return unfinished
