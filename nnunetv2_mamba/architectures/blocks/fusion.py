"""How the paths of a scan are put together: summed, or with learned weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .half_precision import saturated

FUSIONS = ("sum", "learned")


def check_fusion(fusion: Any) -> str:
    """Return ``fusion`` if it is known.

    Raises:
        ValueError: otherwise.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}; got {fusion!r}")
    return fusion


def fusion_weight(fusion: str, directions: int, channels: int) -> nn.Parameter | None:
    """None for ``"sum"``; for ``"learned"`` a weight per direction and channel, 1 at first and without weight decay.

    Raises:
        ValueError: for an unknown ``fusion``.
    """
    if check_fusion(fusion) == "sum":
        return None
    weight = nn.Parameter(torch.ones(directions, channels))
    weight._no_weight_decay = True
    return weight


def weighted(u: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """What is scanned, such that what is summed over the directions has this weight.

    A scan is linear in what is scanned, its term D u included, once step sizes, B and C are computed.

    Args:
        u: ``(batch, length, channels)`` or ``(batch, directions, length, channels)``; the latter comes back.
        weight: ``(directions, channels)``; None gives ``u``.
    """
    if weight is None:
        return u
    return saturated((u if u.ndim == 4 else u.unsqueeze(1)) * weight.unsqueeze(1).to(u.dtype))
