"""Activation checkpointing of what is large and cheap inside a block."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``function(*inputs)``, of which only ``inputs`` are kept for the backward pass: it computes ``function`` again.

    That ends where the backward pass has all that it needs: a convolution that ``function`` ends with is not computed
    again. ``function`` must not draw random numbers.
    """
    if torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    return function(*inputs)
