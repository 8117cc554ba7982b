"""An encoder of a layer that reads the images and stages one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


class StagedEncoder(nn.Module):
    """A stem, then stages; what each gives are the features of a level.

    Args:
        stem: reads the images, at full resolution.
        stages: the first at full resolution; every further one lowers the resolution itself.
    """

    def __init__(self, stem: nn.Module, stages: Sequence[nn.Module]):
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first."""
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features
