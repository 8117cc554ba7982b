"""SegResNetDS, the SegResNet of MONAI's Auto3DSeg, of the blocks of MONAI's class of that name, in nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from ..blocks.decoder import added
from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import saturate_blocks
from ..blocks.monai_library import monai
from ..blocks.staged_encoder import StagedEncoder
from ..contract import PlannedNetwork
from .network import first_numbers

_STAGES = 5


class SegResNetDS(PlannedNetwork):
    """SegResNetDS; logits out.

    As :class:`.SegResNet`, with instance norm, transposed convolutions in the decoder, deep supervision, and stages for
    anisotropic images: the first halve only some axes, with kernels of 1 along the others, as often as the plan does
    before it halves all; after that every stage halves all. It has as many stages as the plan, five, Auto3DSeg's, at
    most. With five isotropic ones and deep supervision it has MONAI's 87,167,276 parameters (4 channels in, 3 classes).
    The weights are initialised as MONAI does. Input ``(batch, input_channels, *grid)``; output
    ``(batch, num_classes, *grid)`` or, with deep supervision, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. ``features_per_stage`` doubles from stage to stage;
            Auto3DSeg's begins with 32.
        n_blocks_per_stage: residual blocks of the encoder's stages; the decoder has one in each.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    missing_stages = {"n_blocks_per_stage": 0}
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem",)

    def __init__(self, *planned: Any, n_blocks_per_stage: Sequence[int] = (1, 2, 2, 4, 4), **planned_by_name: Any):
        super().__init__(*planned, **planned_by_name)
        n_stages, width = self.topology.n_stages, self.topology.features[0]
        self.check_widths([width * 2**stage for stage in range(n_stages)])
        net = monai("networks.nets").SegResNetDS(
            spatial_dims=spatial_dims(self.conv_op),
            init_filters=width,
            in_channels=self.input_channels,
            out_channels=self.num_classes,
            norm="INSTANCE",
            blocks_down=first_numbers("n_blocks_per_stage", n_blocks_per_stage, n_stages),
            resolution=tuple(2.0**-halvings for halvings in _early_halvings(self.topology.strides)),
        )
        levels = net.encoder.layers
        first, *lower = [level["blocks"] for level in levels]
        downs = [level["downsample"] for level in levels]
        stages = [first, *(nn.Sequential(down, *blocks) for down, blocks in zip(downs, lower, strict=False))]
        self.encoder = StagedEncoder(net.encoder.conv_init, stages)
        ups = [(level["upsample"], level["blocks"]) for level in net.up_layers]
        self.decoder = self.make_decoder(lambda level: ups[-1 - level], join=added)
        block = monai("networks.nets.segresnet_ds").SegResBlock
        saturate_blocks(self, block)

    @classmethod
    def stages(cls, strides: Sequence, kernel_sizes: Sequence) -> tuple[Sequence, Sequence]:
        n_stages = min(len(strides), _STAGES)
        early = _early_halvings(strides[:n_stages])
        steps = [[2 if step >= max(early) or step < times else 1 for times in early] for step in range(n_stages)]
        kernels = [[3 if stride > 1 else 1 for stride in step] for step in steps]
        return [[1] * len(early), *steps[:-1]], kernels

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return Auto3DSeg's widths for any number of stages: from 32, doubling."""
        return [32 * 2**stage for stage in range(n_stages)]


def _early_halvings(strides: Sequence[Sequence[int]]) -> list[int]:
    """Return how often each axis is halved before all are, more than the one that is halved least."""
    steps = np.array(strides)[1:] > 1
    of_all = steps.all(axis=1)
    early = steps[: of_all.argmax() if of_all.any() else len(steps)].sum(axis=0)
    return (early - early.min()).tolist()
