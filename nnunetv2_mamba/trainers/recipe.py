"""The numbers of a training: one frozen, checked record per trainer."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

_MOST = 1_000_000  # of what is counted, epochs or iterations: more are a slip of the finger


def number(default: float, low: float | None = None, high: float = math.inf, above: float | None = None) -> Any:
    """Return a dataclass field whose value must lie in ``[low, high]``, or be more than ``above``."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


@dataclass(frozen=True)
class Recipe:
    """What a user may set about a training (see ``settings``); the defaults are nnU-Net's own.

    Attributes:
        num_epochs, num_iterations_per_epoch, num_val_iterations_per_epoch: length of the training.
        optimizer: ``"sgd"`` (Nesterov) or ``"adamw"``.
        initial_lr: learning rate before decay.
        weight_decay: of the decayed parameters (see ``optimizers.parameter_groups``).
        momentum: of SGD; AdamW does not use it.
        warmup_share: share of the training over which the learning rate rises, so that short runs warm up too.
        gradient_clip: largest gradient norm, above 0.
        oversample_foreground_percent: share of the patches of a batch that must hold foreground.
        probabilistic_oversampling: draw that share at random instead of fixing it per batch.
        enable_deep_supervision: train on the logits of every resolution.
        mirroring: mirror patches in training and images in prediction, along the axes that nnU-Net chooses; false where
            left and right are different labels.
        activation_checkpointing: recompute activations in the backward pass: less memory, more time.
        save_every: epochs between two writes of ``checkpoint_latest.pth``.

    ``UNUSED`` names those that a training does not use, and that nobody may set therefore.

    Raises:
        ValueError: naming the attribute whose value has the wrong type or is out of range.
    """

    UNUSED: ClassVar[frozenset[str]] = frozenset()

    num_epochs: int = number(1000, low=1)
    num_iterations_per_epoch: int = number(250, low=1)
    num_val_iterations_per_epoch: int = number(50, low=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    initial_lr: float = number(1e-2, above=0, high=100)
    weight_decay: float = number(3e-5, low=0, high=100)
    momentum: float = number(0.99, low=0, high=1)
    warmup_share: float = number(0.0, low=0, high=1)
    gradient_clip: float = number(12.0, above=0)
    oversample_foreground_percent: float = number(0.33, low=0, high=1)
    probabilistic_oversampling: bool = False
    enable_deep_supervision: bool = True
    mirroring: bool = True
    activation_checkpointing: bool = False
    save_every: int = number(50, low=1)

    def __post_init__(self) -> None:
        types = get_type_hints(type(self))
        for entry in fields(self):
            value = getattr(self, entry.name)
            problem = _problem(value, types[entry.name], entry.metadata)
            if problem:
                raise ValueError(f"{entry.name} must be {problem}, got {value!r}")

    def network_options(self) -> dict[str, Any]:
        """Return the options of the network that follow from the settings."""
        return {}


def _problem(value: Any, expected: Any, limits: Mapping[str, float]) -> str | None:
    """Say what ``value`` would have to be, or None if it is."""
    if get_origin(expected) is Literal:
        choices = get_args(expected)
        return None if value in choices else "one of " + ", ".join(map(repr, choices))
    if expected is bool:
        return None if isinstance(value, bool) else "true or false"
    low, high, above = limits["low"], limits["high"], limits["above"]
    accepted = int if expected is int else (int, float)
    if isinstance(value, accepted) and not isinstance(value, bool):
        enough = value >= low if above is None else value > above
        most = min(high, _MOST if expected is int else sys.float_info.max)
        if enough and value <= most:  # which NaN and Inf are not
            return None
        high = most if enough and expected is int else high
    kind = "a whole number" if expected is int else "a number"
    least = f"of at least {low}" if above is None else f"above {above}"
    return f"{kind} {least}" + (f" and at most {high}" if high < math.inf else "")
