"""Checkpoints that are either there or not, never half-written."""

from __future__ import annotations

import errno
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from nnunetv2_mamba.files import remove_left_behind, written_whole

_NAMES = ("checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth")
_OF_EARLIER_VERSIONS = "checkpoint_*.partial"
_NEEDED = ("network_weights", "optimizer_state", "current_epoch", "logging", "init_args", "_best_ema")


def save_atomically(checkpoint: dict[str, Any], path: Path) -> None:
    """Write ``checkpoint`` so that a process killed at any moment leaves the old file or the new one at ``path``.

    Raises:
        OSError: if the file cannot be written (a full disk, a folder without permission); nothing of it is left.
    """
    try:
        with written_whole(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)
    except (OSError, RuntimeError) as error:  # torch.save turns some of Python's errors into the latter
        raise OSError(
            f"cannot write the checkpoint {path} ({error}). An earlier one there is intact: make room or correct "
            "the permissions, then continue with --c"
        ) from error


def load_own_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint of this user's own training, trusted as nnU-Net trusts it, into the CPU's memory.

    Raises:
        OSError: if it is missing or cannot be read.
        ValueError: if the file is damaged, or holds something else.
    """
    advice = (
        "Move it away: --c then continues from the next best, of checkpoint_final.pth, checkpoint_latest.pth and "
        "checkpoint_best.pth in this order"
    )
    try:
        content = torch.load(path, map_location="cpu", weights_only=False)
    except (RuntimeError, EOFError, UnpicklingError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # this one: too short for a directory of a ZIP
            raise
        raise ValueError(f"{path} is damaged and cannot be read ({error}). {advice}") from error
    missing = [key for key in _NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path} is no checkpoint of a training: it has no {', '.join(missing)}. {advice}")
    return content


def remove_unfinished(folder: Path) -> list[Path]:
    """Delete what killed processes left of ``save_atomically`` in ``folder``; returns the deleted files."""
    removed = [path for name in _NAMES for path in remove_left_behind(folder / name)]
    for path in sorted(folder.glob(_OF_EARLIER_VERSIONS)):
        path.unlink(missing_ok=True)
        removed.append(path)
    return removed
