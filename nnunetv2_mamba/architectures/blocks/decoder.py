"""The upsampling half of a U-shaped network, with deep supervision."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from .half_precision import saturated


def upsampled_first(upsampled: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Concatenate the two along the channels."""
    return torch.cat((upsampled, skip), dim=1)


def skip_first(upsampled: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Concatenate the two along the channels, the skip connection first."""
    return torch.cat((skip, upsampled), dim=1)


def added(upsampled: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """Add the two, which have as many channels."""
    return saturated(upsampled + skip)


class Decoder(nn.Module):
    """Upsamples, joins the skip and merges, level by level, with segmentation heads at one or all resolutions.

    ``seg_layers[0]`` is the head at full resolution. The others exist only if the decoder is built with deep
    supervision, so that every parameter is trained; a decoder built without takes a checkpoint trained with, and leaves
    their weights out. nnU-Net switches ``deep_supervision`` off and on by attribute.

    Args:
        upsamplings, stages: one module per resolution, in order of computation, lowest resolution first.
        widths: output channels of ``stages``.
        num_classes: output channels of the heads.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        deep_supervision: build all heads and return the logits of all resolutions.
        join: gives what a stage gets, of (upsampled, skip).
    """

    def __init__(
        self,
        upsamplings: Sequence[nn.Module],
        stages: Sequence[nn.Module],
        widths: Sequence[int],
        num_classes: int,
        conv_op: type[nn.Module],
        deep_supervision: bool,
        join: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = upsampled_first,
    ):
        super().__init__()
        self.upsamplings = nn.ModuleList(upsamplings)
        self.stages = nn.ModuleList(stages)
        supervised = list(reversed(widths)) if deep_supervision else widths[-1:]
        self.seg_layers = nn.ModuleList(conv_op(width, num_classes, 1) for width in supervised)
        self.deep_supervision = deep_supervision
        self.join = join

    def forward(self, skips: Sequence[torch.Tensor | None]) -> torch.Tensor | list[torch.Tensor]:
        """``skips``: features from the highest resolution to the bottleneck; None where there is no skip connection.

        Returns logits at full resolution, or with deep supervision a list of them, highest resolution first.
        """
        *skips, x = skips
        merged = []
        for upsample, stage, skip in zip(self.upsamplings, self.stages, reversed(skips), strict=True):
            x = upsample(x)
            if skip is not None:
                x = self.join(x, skip)
            x = stage(x)
            merged.append(x)
        if self.deep_supervision:
            return [head(features) for head, features in zip(self.seg_layers, reversed(merged), strict=True)]
        return self.seg_layers[0](x)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        heads = prefix + "seg_layers."
        for key in [key for key in state_dict if key.startswith(heads)]:
            if int(key[len(heads) :].split(".")[0]) >= len(self.seg_layers):
                del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
