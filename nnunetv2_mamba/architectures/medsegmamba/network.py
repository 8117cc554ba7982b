"""MedSegMamba (Cao et al. 2024, arXiv 2409.08307) and its comparators, for any nnU-Net plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_pool_op
from torch import nn

from ..blocks.decoder import skip_first
from ..blocks.depthwise_conv import DepthwiseConv
from ..blocks.dimensions import same_padding
from ..blocks.half_precision import saturate_layers
from ..blocks.mixers import check_mixer, sequence_mixer
from ..blocks.scan_paths import scan_of_block
from ..blocks.sizes import check_rate, check_size
from ..blocks.staged_encoder import StagedEncoder
from ..blocks.tokens import to_tokens, to_volume
from ..contract import PlannedNetwork
from ..topology import Topology, total_stride
from .attention import PositionEmbedding, SelfAttention
from .group_norm_conv import GROUPS, ConvBlock, ResConvBlock, UpConv
from .ss3d import SS3D, SS3D_MIXERS
from .vss3d import VSS3DBlock

BOTTLENECKS = ("ss3d", "tom", "transformer", "none", "conv")
CONV_BOTTLENECK_KERNEL = 7
TRANSFORMER_MLP_CHANNELS = 1728


def _encoder(input_channels: int, topology: Topology, conv_op: type[nn.Module]) -> StagedEncoder:
    """A residual convolution block per level, max pooling between."""
    pool = get_matching_pool_op(conv_op, pool_type="max")
    widths = (input_channels, *topology.features)
    stages = [
        nn.Sequential(
            pool(stride) if level else nn.Identity(), ResConvBlock(widths[level], widths[level + 1], conv_op, kernel)
        )
        for level, (stride, kernel) in enumerate(zip(topology.strides, topology.kernel_sizes, strict=True))
    ]
    return StagedEncoder(nn.Identity(), stages)


class MedSegMambaBottleneck(nn.Module):
    """Expand, token blocks, LayerNorm, compress: ``(batch, in_channels, *grid)`` to the same shape."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        blocks: Sequence[VSS3DBlock],
        position_embedding: PositionEmbedding | None,
    ):
        super().__init__()
        self.expand = nn.Sequential(
            nn.GroupNorm(GROUPS, in_channels),
            nn.ReLU(),
            conv_op(in_channels, channels, tuple(kernel_size), padding=same_padding(kernel_size)),
        )
        self.position_embedding = position_embedding
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels)
        self.compress = ConvBlock(channels, in_channels, conv_op, kernel_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        grid = x.shape[2:]
        tokens = to_tokens(self.expand(x))
        if self.position_embedding is not None:
            tokens = self.position_embedding(tokens, grid)
        for block in self.blocks:
            tokens = block(tokens, grid)
        return self.compress(to_volume(self.norm(tokens), grid))


class MedSegMamba(PlannedNetwork):
    """MedSegMamba, built from a plan; logits out (the released code returns softmax probabilities).

    With four isotropic stages of widths 32, 64, 128, 256 the defaults have the released code's 84,400,736 parameters
    (1 channel in, 32 classes). Input ``(batch, input_channels, *grid)``, every axis a multiple of its total stride;
    output ``(batch, num_classes, *grid)`` or, with deep supervision, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. Widths are multiples of 8.
        bottleneck: what mixes the tokens at the lowest resolution: ``"ss3d"`` (MedSegMamba), ``"tom"`` (SegMamba's
            tri-oriented Mamba: the paper's SegMambaBot), ``"transformer"`` (TABSurfer), ``"conv"`` (depthwise 7-wide
            convolution) or ``"none"`` (the blocks keep their MLP only).
        mixer: controls for ``"ss3d"``, ``"tom"`` and ``"transformer"``: ``"none"`` puts the identity in place of scan
            or attention, ``"conv"`` a depthwise convolution of about as many weights; all else stays. ``"mamba2"`` puts
            Mamba-2's scan into ``"ss3d"`` and its block into ``"tom"``.
        bottleneck_channels: width of the tokens.
        n_bottleneck_blocks: number of blocks; default 9, with ``"transformer"`` 8.
        mlp_channels: hidden width of the blocks' MLP; default ``bottleneck_channels``, with ``"transformer"`` 1728.
        d_state: state size; default 64, with ``"tom"`` 16.
        headdim: width of a head of Mamba-2, default 64; see :func:`.directional_ssd.head_size` for widths that do not
            fit.
        expand: factor of the inner width of ``"ss3d"`` and ``"tom"``; default 1, with ``"tom"`` 2.
        scan: the paths of ``"ss3d"`` and ``"tom"``, see ``docs/scan_orders.md``; default ``"serpentine"``, whose
            orientation turns from block to block, with ``"tom"`` ``"tri_oriented"``.
        fusion: ``"sum"`` of the paths or ``"learned"``, with a weight per path and channel.
        dropout, drop_path: rates inside the bottleneck.
        position_grid: size of the bottleneck grid for which ``"transformer"`` learns position embeddings (patch size
            over total stride); required there and refused elsewhere.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    PATCH_ARGUMENTS = ("position_grid",)
    key_to_stem = "encoder.stages.0"
    keys_to_in_proj = ("encoder.stages.0.1.convs.0.0",)
    keys_to_bottleneck = ("bottleneck",)
    takes_one_voxel = True

    def __init__(
        self,
        *planned: Any,
        bottleneck: str = "ss3d",
        mixer: str = "mamba",
        bottleneck_channels: int = 1024,
        n_bottleneck_blocks: int | None = None,
        mlp_channels: int | None = None,
        d_state: int | None = None,
        headdim: int | None = None,
        expand: int | None = None,
        scan: str | None = None,
        fusion: str = "sum",
        dropout: float = 0.1,
        drop_path: float = 0.3,
        position_grid: Sequence[int] | None = None,
        **planned_by_name: Any,
    ):
        if bottleneck not in BOTTLENECKS:
            raise ValueError(f"bottleneck must be one of {', '.join(BOTTLENECKS)}; got {bottleneck!r}")
        if check_mixer(mixer) != "mamba" and bottleneck in ("none", "conv"):
            raise ValueError(f"mixer={mixer!r} has no effect with bottleneck={bottleneck!r}; leave it at 'mamba'")
        if (d_state, headdim, expand) != (None, None, None) and bottleneck not in ("ss3d", "tom"):
            raise ValueError(
                f"d_state, headdim and expand have no effect with bottleneck={bottleneck!r}; leave them out"
            )
        if (scan, fusion) != (None, "sum") and bottleneck not in ("ss3d", "tom"):
            raise ValueError(f"scan and fusion have no effect with bottleneck={bottleneck!r}; leave them out")
        headdim = 64 if headdim is None else headdim
        if (position_grid is not None) != (bottleneck == "transformer"):
            raise ValueError("position_grid must be given with bottleneck='transformer', and only then")
        check_rate("dropout", dropout)
        check_rate("drop_path", drop_path)
        super().__init__(*planned, **planned_by_name)
        topology, conv_op = self.topology, self.conv_op
        features, kernels = topology.features, topology.kernel_sizes
        if n_bottleneck_blocks is None:
            n_bottleneck_blocks = 8 if bottleneck == "transformer" else 9
        check_size("n_bottleneck_blocks", n_bottleneck_blocks, least=0)
        check_size("bottleneck_channels", bottleneck_channels)
        d_state_of_paper, expand_of_paper = (16, 2) if bottleneck == "tom" else (64, 1)
        options = {
            "d_state": d_state_of_paper if d_state is None else d_state,
            "expand": expand_of_paper if expand is None else expand,
            "headdim": headdim,
            "fusion": fusion,
        }

        def token_mixer(index: int) -> nn.Module | None:
            width, kernel = bottleneck_channels, kernels[-1]
            if bottleneck == "ss3d":
                paths = scan_of_block("serpentine" if scan is None else scan, index)
                if mixer in SS3D_MIXERS:
                    return SS3D(width, conv_op, kernel, paths, dropout=dropout, mixer=mixer, **options)
                return sequence_mixer(mixer, width, conv_op, paths, **options)
            if bottleneck == "tom":
                paths = scan_of_block("tri_oriented" if scan is None else scan, index)
                return sequence_mixer(mixer, width, conv_op, paths, dt_init="first", **options)
            if bottleneck == "transformer":
                return SelfAttention(width, conv_op, dropout=dropout, mixer=mixer)
            if bottleneck == "conv":
                return DepthwiseConv(width, conv_op, (CONV_BOTTLENECK_KERNEL,) * len(kernel))
            return None

        if mlp_channels is None:
            mlp_channels = TRANSFORMER_MLP_CHANNELS if bottleneck == "transformer" else bottleneck_channels
        check_size("mlp_channels", mlp_channels)
        blocks = [
            VSS3DBlock(bottleneck_channels, token_mixer(i), mlp_channels, dropout, drop_path)
            for i in range(n_bottleneck_blocks)
        ]
        embedding = None
        if position_grid is not None:
            embedding = PositionEmbedding(bottleneck_channels, position_grid, dropout)
            self.key_to_lpe = "bottleneck.position_embedding.embedding"
        self.encoder = _encoder(self.input_channels, topology, conv_op)
        self.bottleneck = MedSegMambaBottleneck(
            features[-1], bottleneck_channels, conv_op, kernels[-1], blocks, embedding
        )
        merged = (2 * features[0], *features[1:])  # the released code's final block has the width of what it merges

        def make_level(level: int) -> tuple[nn.Module, nn.Module]:
            width, kernel, stride = features[level], kernels[level], topology.strides[level + 1]
            upsampling = UpConv(features[level + 1], width, conv_op, kernel, stride)
            return upsampling, ResConvBlock(2 * width, merged[level], conv_op, kernel)

        self.decoder = self.make_decoder(make_level, merged[-2::-1], skip_first)
        saturate_layers(self)

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths for any number of stages: doubling from 32 up to 256."""
        return [min(32 * 2**i, 256) for i in range(n_stages)]

    @classmethod
    def patch_options(cls, patch_size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return the grid for which the transformer learns position embeddings."""
        if arguments.get("bottleneck") != "transformer":
            return {}
        return {"position_grid": [s // t for s, t in zip(patch_size, total_stride(arguments["strides"]), strict=True)]}

    def features(self, x: torch.Tensor) -> list[torch.Tensor]:
        *skips, x = self.encoder(x)
        return [*skips, self.bottleneck(x)]
