"""MedNeXt (Roy et al. 2023, arXiv 2303.09975), of the blocks of MONAI's ``MedNeXt``, in nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from ..blocks.decoder import added
from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import saturate_blocks
from ..blocks.monai_library import monai
from ..blocks.staged_encoder import StagedEncoder
from ..contract import PlannedNetwork
from ..topology import isotropic_strides

_STAGES = 5


class Size(NamedTuple):
    """A size of the paper (its table 1), per stage, the lowest resolution last; the decoder has the encoder's.

    Attributes:
        blocks: number of blocks.
        expansion: of the channels inside a block.
    """

    blocks: tuple[int, ...]
    expansion: tuple[int, ...]


SIZES = {
    "S": Size((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
    "B": Size((2, 2, 2, 2, 2), (2, 3, 4, 4, 4)),
    "M": Size((3, 4, 4, 4, 4), (2, 3, 4, 4, 4)),
    "L": Size((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
}


class MedNeXt(PlannedNetwork):
    """MedNeXt; logits out.

    A U-Net of residual blocks with a depthwise convolution, an expansion and a compression; down- and upsampling are
    such blocks, too, and skip connections are added. Every stage halves every axis: it has as many stages as the plan,
    five, the paper's, at most. With five and kernels of 3 it has MONAI's 5,551,310, 10,511,246, 17,533,902 and
    61,727,150 parameters in its sizes S, B, M and L (1 channel in, 14 classes, without deep supervision). The weights
    are initialised as MONAI does. Input ``(batch, input_channels, *grid)``; output ``(batch, num_classes, *grid)`` or,
    with deep supervision, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. ``features_per_stage`` doubles from stage to stage; the
            paper's begins with 32. ``kernel_sizes`` are 3, or 5 everywhere.
        size: ``"S"``, ``"B"``, ``"M"`` or ``"L"``.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem",)

    def __init__(self, *planned: Any, size: str = "S", **planned_by_name: Any):
        super().__init__(*planned, **planned_by_name)
        if size not in SIZES:
            raise ValueError(f"size must be one of {', '.join(SIZES)}, got {size!r}")
        n_down = self.topology.n_stages - 1
        width = self.topology.features[0]
        self.check_widths([width * 2**stage for stage in range(n_down + 1)])
        blocks, expansion = SIZES[size]
        net = monai("networks.nets").MedNeXt(
            spatial_dims=spatial_dims(self.conv_op),
            init_filters=width,
            in_channels=self.input_channels,
            out_channels=self.num_classes,
            encoder_expansion_ratio=expansion[:n_down],
            decoder_expansion_ratio=expansion[:n_down][::-1],
            bottleneck_expansion_ratio=expansion[-1],
            kernel_size=self.topology.kernel_sizes[0][0],
            use_residual_connection=True,
            blocks_down=blocks[:n_down],
            blocks_bottleneck=blocks[-1],
            blocks_up=blocks[:n_down][::-1],
        )
        first, *others = [*net.enc_stages, net.bottleneck]
        lower = [nn.Sequential(down, *stage) for down, stage in zip(net.down_blocks, others, strict=True)]
        self.encoder = StagedEncoder(net.stem, [first, *lower])
        levels = list(zip(net.up_blocks, net.dec_stages, strict=True))
        self.decoder = self.make_decoder(lambda level: levels[-1 - level], join=added)
        block = monai("networks.blocks.mednext_block").MedNeXtBlock  # also the base of those that change resolution
        saturate_blocks(self, block)

    @classmethod
    def stages(cls, strides: Sequence, kernel_sizes: Sequence) -> tuple[Sequence, Sequence]:
        dims, n_stages = len(strides[0]), min(len(strides), _STAGES)
        kernel = 5 if all(k == 5 for stage in kernel_sizes for k in stage) else 3
        return isotropic_strides(n_stages, dims), [[kernel] * dims] * n_stages

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths for any number of stages: from 32, doubling."""
        return [32 * 2**stage for stage in range(n_stages)]
