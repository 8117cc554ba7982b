"""Activation checkpointing of what is large and cheap inside a block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from nnunetv2_mamba.ops import KEPT_BY_CHECKPOINTING

# Asked here, because torch.compile cannot look into the question before torch 2.8.
_WITH_AUTOCAST = [kind for kind in ("cpu", "cuda", "xpu", "mps", "hpu") if torch.amp.is_autocast_available(kind)]


def recomputed(function: Callable[..., Tensor], *inputs: Tensor, **options: Any) -> Tensor:
    """Return ``function(*inputs)`` and keep only ``inputs`` for the backward pass, which computes ``function`` again.

    That ends where the backward pass has all that it needs: a convolution that ``function`` ends with is not computed
    again. ``function`` must not draw random numbers. ``options`` go to torch's ``checkpoint``.
    """
    if torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False, **options)
    return function(*inputs)


def recomputed_but_for_scans(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Do as :func:`recomputed`, but keep what the scans of ``nnunetv2_mamba.ops`` give.

    The scan is most of the work, its inputs (the convolution of every direction, the step sizes) most of the memory.
    """

    def uncached(*inputs: Tensor) -> Tensor:
        # Autocast keeps the weights that it has cast, but not until the backward pass; both passes have to run the same
        # operations.
        device = inputs[0].device.type
        if device in _WITH_AUTOCAST and torch.is_autocast_enabled(device):
            with torch.autocast(device, torch.get_autocast_dtype(device), cache_enabled=False):
                return function(*inputs)
        return function(*inputs)

    # what is kept may be saturated in place; doing that twice changes nothing
    kept = list(KEPT_BY_CHECKPOINTING)
    contexts = partial(create_selective_checkpoint_contexts, kept, allow_cache_entry_mutation=True)
    return recomputed(uncached, *inputs, context_fn=contexts)
