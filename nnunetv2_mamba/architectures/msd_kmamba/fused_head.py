"""One segmentation out of those of all resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class FusedHead(nn.Module):
    """``sum_s softmax(a)_s * upsample(z_s)`` with a learned ``a``, over logits ``z_s`` of several resolutions.

    Args:
        n_heads: number of resolutions.
    """

    def __init__(self, n_heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_heads))

    def forward(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Fuse logits ``(batch, classes, *grid)``, highest resolution first, into logits of that resolution."""
        size = logits[0].shape[2:]
        mode = {2: "bilinear", 3: "trilinear"}[len(size)]
        weights = self.weight.softmax(0).to(logits[0].dtype)
        fused = weights[0] * logits[0]
        for weight, lower in zip(weights[1:], logits[1:], strict=True):
            fused = fused + weight * nn.functional.interpolate(lower, size, mode=mode)
        return fused
