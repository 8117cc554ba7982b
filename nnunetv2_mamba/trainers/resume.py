"""Continuing a training: which settings it goes on with, and its state out of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from .recipe import Recipe
from .settings import VARIABLE, with_settings


def settings_to_adopt(
    recipe: Recipe, saved: Mapping[str, Any], explicit: Collection[str], fixed: Sequence[str]
) -> dict[str, Any]:
    """The checkpoint's settings that replace those of ``recipe``: all that differ, but for what the user sets now.

    Args:
        saved: the settings of the checkpoint.
        explicit: the names that the user sets.
        fixed: the names that a checkpoint's tensors depend on.

    Raises:
        ValueError: if the user sets one of ``fixed`` to another value.
    """
    now = asdict(recipe)
    differing = {name: value for name, value in saved.items() if name in now and value != now[name]}
    for name in fixed:
        if name in differing and name in explicit:
            raise ValueError(
                f"{VARIABLE} sets {name}={now[name]!r}, but the training to continue uses {differing[name]!r}; "
                "leave it out, or start a new training without --c"
            )
    adopted = {name: value for name, value in differing.items() if name not in explicit}
    with_settings(recipe, adopted)  # they fit together
    return adopted


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """For each entry of ``saved`` that is another one ``now``, both values in words."""
    return {
        name: f"{value!r} in the checkpoint, {now[name]!r} now"
        for name, value in saved.items()
        if name in now and value != now[name]
    }


def restore(trainer: nnUNetTrainer, network: nn.Module, content: Mapping[str, Any]) -> None:
    """Put a checkpoint into an initialised trainer, as nnU-Net's ``load_checkpoint`` does with the file.

    Kept are the options of the optimiser, such as the weight decay, which may have been set anew; its moments are the
    checkpoint's.

    Args:
        trainer: whose attributes are set.
        network: its network, not wrapped.
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
    groups = trainer.optimizer.param_groups
    options = [{name: value for name, value in group.items() if name != "params"} for group in groups]
    trainer.optimizer.load_state_dict(content["optimizer_state"])
    for group, values in zip(trainer.optimizer.param_groups, options, strict=True):
        group.update(values)
    if trainer.grad_scaler is not None and content.get("grad_scaler_state") is not None:
        trainer.grad_scaler.load_state_dict(content["grad_scaler_state"])
