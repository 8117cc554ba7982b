"""SegResNet (Myronenko 2018, arXiv 1810.11654) without its autoencoder, of MONAI's blocks, in nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..blocks.decoder import added
from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import saturate_blocks
from ..blocks.monai_library import monai
from ..blocks.sizes import check_rate
from ..blocks.staged_encoder import StagedEncoder
from ..contract import PlannedNetwork
from ..topology import isotropic_strides, sizes_per_stage

_GROUPS = 8  # of the group norm


def first_numbers(name: str, given: Sequence[int], n_stages: int) -> tuple[int, ...]:
    """Return the first of the numbers given, one for each of ``n_stages``.

    Raises:
        ValueError: naming the argument, if there are fewer, or one is no positive integer.
    """
    return tuple(sizes_per_stage(name, given[:n_stages] if isinstance(given, Sequence) else given, n_stages))


class SegResNet(PlannedNetwork):
    """SegResNet; logits out.

    Residual blocks with group norm before each convolution, strided convolutions, linear upsampling, and skip
    connections that are added. Every stage halves every axis: it has as many stages as the plan, four, the paper's, at
    most. With four it has MONAI's 18,798,627 parameters (4 channels in, 3 classes). The weights are initialised as
    MONAI does. Input ``(batch, input_channels, *grid)``; output ``(batch, num_classes, *grid)`` or, with deep
    supervision, which the paper does not have, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. ``features_per_stage`` doubles from stage to stage, of a
            first width that 8 divides; the paper's is 32.
        n_blocks_per_stage: residual blocks of the encoder's stages; the decoder has one in each.
        dropout: rate at which channels are dropped after the first convolution; the paper's is 0.2.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    missing_stages = {"n_blocks_per_stage": 0}
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.0.conv",)

    def __init__(
        self,
        *planned: Any,
        n_blocks_per_stage: Sequence[int] = (1, 2, 2, 4),
        dropout: float = 0.2,
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        n_stages, width = self.topology.n_stages, self.topology.features[0]
        self.check_widths([width * 2**stage for stage in range(n_stages)])
        check_rate("dropout", dropout)
        if width % _GROUPS:
            raise ValueError(f"features_per_stage of SegResNet must be multiples of {_GROUPS}, got {width}")
        net = monai("networks.nets").SegResNet(
            spatial_dims=spatial_dims(self.conv_op),
            init_filters=width,
            in_channels=self.input_channels,
            out_channels=self.num_classes,
            dropout_prob=dropout,
            norm=("GROUP", {"num_groups": _GROUPS}),
            blocks_down=first_numbers("n_blocks_per_stage", n_blocks_per_stage, n_stages),
            blocks_up=(1,) * (n_stages - 1),
        )
        self.encoder = StagedEncoder(nn.Sequential(net.convInit, net.dropout), net.down_layers)
        norm, activation, _ = net.conv_final
        *others, last = net.up_layers
        levels = list(zip(net.up_samples, [*others, nn.Sequential(last, norm, activation)], strict=True))
        self.decoder = self.make_decoder(lambda level: levels[-1 - level], join=added)
        block = monai("networks.blocks.segresnet_block").ResBlock
        saturate_blocks(self, block)

    @classmethod
    def stages(cls, strides: Sequence, kernel_sizes: Sequence) -> tuple[Sequence, Sequence]:
        dims, n_stages = len(strides[0]), min(len(strides), 4)
        return isotropic_strides(n_stages, dims), [[3] * dims] * n_stages

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths for any number of stages: from 32, doubling."""
        return [32 * 2**stage for stage in range(n_stages)]
