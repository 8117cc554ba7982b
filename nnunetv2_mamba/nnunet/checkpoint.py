"""nnU-Net's checkpoints: what is in them, and files that are either there or not, never half-written."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_mamba.files import remove_left_behind, written_whole

from .names import CHECKPOINTS

# Older torch has no AcceleratorError.
_OF_THE_GPU = (torch.OutOfMemoryError, getattr(torch, "AcceleratorError", torch.OutOfMemoryError))
_OF_EARLIER_VERSIONS = "checkpoint_*.partial"
_NEEDED = ("network_weights", "optimizer_state", "current_epoch", "logging", "init_args", "_best_ema")


def checkpoint_content(trainer: nnUNetTrainer, network: nn.Module) -> dict[str, Any]:
    """What nnU-Net's ``save_checkpoint`` writes.

    Args:
        trainer: nnU-Net's, initialised.
        network: the trainer's, not wrapped by DistributedDataParallel or torch.compile.
    """
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": trainer.optimizer.state_dict(),
        "grad_scaler_state": trainer.grad_scaler.state_dict() if trainer.grad_scaler is not None else None,
        "logging": trainer.logger.get_checkpoint(),
        "_best_ema": trainer._best_ema,
        "current_epoch": trainer.current_epoch + 1,
        "init_args": trainer.my_init_kwargs,
        "trainer_name": trainer.__class__.__name__,
        "inference_allowed_mirroring_axes": trainer.inference_allowed_mirroring_axes,
    }


def restore(trainer: nnUNetTrainer, network: nn.Module, content: Mapping[str, Any]) -> None:
    """Put a checkpoint into an initialised trainer, as nnU-Net's ``load_checkpoint`` does with the file.

    Kept are the options of the optimiser, such as the weight decay, which may have been set anew; its moments are the
    checkpoint's.

    Args:
        trainer: whose attributes are set.
        network: the trainer's, not wrapped by DistributedDataParallel or torch.compile.
        content: of a file that nnU-Net's trainer or one of this package wrote.
    """
    names = network.state_dict().keys()
    network.load_state_dict(
        {
            name if name in names else name.removeprefix("module."): value  # of nn.DataParallel
            for name, value in content["network_weights"].items()
        }
    )
    trainer.my_init_kwargs = content["init_args"]
    trainer.current_epoch = content["current_epoch"]
    trainer.logger.load_checkpoint(content["logging"])
    trainer._best_ema = content["_best_ema"]
    axes = content.get("inference_allowed_mirroring_axes", trainer.inference_allowed_mirroring_axes)
    trainer.inference_allowed_mirroring_axes = axes
    saved = content["optimizer_state"]
    groups = [dict(group) for group in saved["param_groups"]]
    # Before they are loaded: a fused optimiser, of a GPU, has its counts of steps there, another one has not.
    for group, own in zip(groups, trainer.optimizer.param_groups, strict=False):  # torch compares their numbers
        group.update({name: value for name, value in own.items() if name != "params"})
    trainer.optimizer.load_state_dict({**saved, "param_groups": groups})
    if trainer.grad_scaler is not None and content.get("grad_scaler_state") is not None:
        trainer.grad_scaler.load_state_dict(content["grad_scaler_state"])


@contextmanager
def checkpoint_written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name to save to: a process killed at any moment leaves the old file or the new one at ``path``.

    Raises:
        OSError: if the file cannot be written (a full disk, a folder without permission); nothing of it is left.
    """
    try:
        with written_whole(path) as temporary:
            yield temporary
    except _OF_THE_GPU:
        raise
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
        f"Move it away: --c then continues from the next best, of {CHECKPOINTS[0]}, {CHECKPOINTS[1]} and "
        f"{CHECKPOINTS[2]} in this order"
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
    """Delete what killed processes left of checkpoints in ``folder``; returns the deleted files."""
    removed = [path for name in CHECKPOINTS for path in remove_left_behind(folder / name)]
    for path in sorted(folder.glob(_OF_EARLIER_VERSIONS)):
        path.unlink(missing_ok=True)
        removed.append(path)
    return removed
