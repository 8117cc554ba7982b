"""SegMamba's feature-level uncertainty estimation (FUE)."""

from __future__ import annotations

import torch
from torch import nn

from ..blocks.half_precision import saturated, wide


class FeatureLevelUncertaintyEstimation(nn.Module):
    """Scale features by how certain they are; no parameters.

    ``p = sigmoid(mean over channels of z)``, ``u = -p ln p``, ``z + z (1 - u)`` per voxel, for z of shape
    ``(batch, channels, *grid)``. A reconstruction: the paper (section 2.4) describes it, the released code has none.
    """

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        # log sigmoid stays finite where sigmoid underflows; fp32 because its exponent range is what matters here
        mean = wide(z).mean(dim=1, keepdim=True)
        uncertainty = -torch.sigmoid(mean) * nn.functional.logsigmoid(mean)
        return saturated(z * (2 - uncertainty).to(z.dtype))
