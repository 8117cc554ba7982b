"""Checkpoints that are either there or not, never half-written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

_SUFFIX = ".partial"


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``checkpoint`` so that a process killed at any moment leaves the old file or the new one at ``path``.

    The bytes go to a temporary file in the same folder (a rename across file systems is not atomic), reach the disk,
    and are renamed. If writing fails, for example on a full disk, the temporary file is removed and the error raised.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{_SUFFIX}")
    try:
        with partial.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # the new name must survive a power cut too; other systems cannot open a folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: Path) -> list[Path]:
    """Delete what killed processes left of ``save_atomically`` in ``folder``; returns the deleted files."""
    unfinished = sorted(folder.glob(f"checkpoint_*{_SUFFIX}"))
    for path in unfinished:
        path.unlink(missing_ok=True)
    return unfinished
