"""U-Mamba (Ma, Li, Wang 2024, arXiv 2401.04722) as its released code computes it, for any nnU-Net plan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from ..blocks.half_precision import saturate_layers
from ..blocks.mamba_layer import MambaLayer
from ..blocks.scan_paths import scan_of_block
from ..contract import PlannedNetwork
from ..topology import Topology, sizes_per_stage
from .residual_block import ResidualBlock

_WHY_ONE_PATCH = (
    "UMambaEnc takes channels as tokens where a feature map has no more voxels than channels, so its weights belong to "
    "one patch size."
)


def _blocks_per_stage(name: str, given: Sequence[int] | None, n_stages: int, needed: int) -> list[int]:
    """Return U-Mamba's numbers of blocks unless others are given: 2, and 1 in the later half of the stages."""
    if given is None:
        return [2 if stage < math.ceil(n_stages / 2) else 1 for stage in range(needed)]
    return sizes_per_stage(name, given, needed)


def _stage(
    in_channels: int,
    channels: int,
    conv_op: type[nn.Module],
    kernel_size: Sequence[int],
    n_blocks: int,
    stride: Sequence[int] | int = 1,
) -> nn.Sequential:
    """Return residual blocks, the first of which changes width and resolution."""
    return nn.Sequential(
        ResidualBlock(in_channels, channels, conv_op, kernel_size, stride),
        *(ResidualBlock(channels, channels, conv_op, kernel_size, projected=False) for _ in range(n_blocks - 1)),
    )


class UMambaEncoder(nn.Module):
    """A stem at full resolution, then per level residual blocks and a Mamba layer (or the identity)."""

    def __init__(
        self,
        input_channels: int,
        topology: Topology,
        conv_op: type[nn.Module],
        n_blocks: Sequence[int],
        mamba_layers: Sequence[nn.Module],
    ):
        super().__init__()
        features, kernels, strides = topology.features, topology.kernel_sizes, topology.strides
        self.stem = _stage(input_channels, features[0], conv_op, kernels[0], n_blocks[0])
        self.stages = nn.ModuleList(
            _stage(features[max(i - 1, 0)], features[i], conv_op, kernels[i], n_blocks[i], strides[i])
            for i in range(topology.n_stages)
        )
        self.mamba_layers = nn.ModuleList(mamba_layers)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first."""
        x = self.stem(x)
        features = []
        for stage, mamba_layer in zip(self.stages, self.mamba_layers, strict=True):
            x = mamba_layer(stage(x))
            features.append(x)
        return features


class _UMamba(PlannedNetwork):
    """Encoder with the Mamba layers that a variant chooses, and decoder; made by ``build``."""

    widths_from_plan = True
    missing_stages = {"n_blocks_per_stage": 0, "n_blocks_per_stage_decoder": 1}
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.0.conv1",)

    def build(
        self,
        mamba_layers: Sequence[nn.Module],
        n_blocks_per_stage: Sequence[int] | None,
        n_blocks_per_stage_decoder: Sequence[int] | None,
    ) -> None:
        """Make encoder and decoder, with one of ``mamba_layers`` after each stage of the encoder."""
        topology, conv_op = self.topology, self.conv_op
        n_stages, features = topology.n_stages, topology.features
        n_blocks = _blocks_per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages, n_stages)
        n_blocks_decoder = _blocks_per_stage(
            "n_blocks_per_stage_decoder", n_blocks_per_stage_decoder, n_stages, n_stages - 1
        )
        self.encoder = UMambaEncoder(self.input_channels, topology, conv_op, n_blocks, mamba_layers)
        # The released 2D networks leave the skip connection at full resolution out.
        self.skips_full_resolution = len(topology.strides[0]) == 3

        def make_level(level: int) -> tuple[nn.Module, nn.Module]:
            width, kernel = features[level], topology.kernel_sizes[level]
            scale = tuple(float(s) for s in topology.strides[level + 1])
            upsample = nn.Upsample(scale_factor=scale, mode="nearest")
            merged = 2 * width if level or self.skips_full_resolution else width
            upsampling = nn.Sequential(upsample, conv_op(features[level + 1], width, 1))
            return upsampling, _stage(merged, width, conv_op, kernel, n_blocks_decoder[-1 - level])

        self.decoder = self.make_decoder(make_level)
        self.apply(InitWeights_He(1e-2))
        saturate_layers(self)

    def features(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        first, *others = self.encoder(x)
        return [first if self.skips_full_resolution else None, *others]


class UMambaBot(_UMamba):
    """U-Mamba with one Mamba layer, in the bottleneck; logits out.

    A residual U-Net whose bottleneck features go through ``Mamba(LayerNorm(x))``: one raster scan, no residual. With
    nnU-Net's six isotropic stages and deep supervision it has the released code's 42,124,692 parameters (4 channels in,
    4 out). Input ``(batch, input_channels, *grid)``, every axis a multiple of its total stride; output
    ``(batch, num_classes, *grid)`` or, with deep supervision, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`.
        n_blocks_per_stage: residual blocks of each stage; default 2, and 1 in the deeper half. The stem at full
            resolution has as many as the first stage.
        n_blocks_per_stage_decoder: the same for the ``n_stages - 1`` stages of the decoder, deepest first; default 2,
            and 1 in the shallower half.
        mixer: ``"mamba"``, ``"mamba2"``, or a control: ``"none"`` (identity) or ``"conv"`` (depthwise convolution of
            about as many weights) in place of causal convolution and scan.
        d_state: state size.
        headdim: width of a head of Mamba-2; see :func:`.directional_ssd.head_size` for widths that do not fit.
        scan: the paths of the Mamba layer; see ``docs/scan_orders.md``. The paper's is ``"raster"``.
        fusion: ``"sum"`` of the paths or ``"learned"``, with a weight per path and channel.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    def __init__(
        self,
        *planned: Any,
        n_blocks_per_stage: Sequence[int] | None = None,
        n_blocks_per_stage_decoder: Sequence[int] | None = None,
        mixer: str = "mamba",
        d_state: int = 16,
        headdim: int = 64,
        scan: str = "raster",
        fusion: str = "sum",
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        layers: list[nn.Module] = [nn.Identity() for _ in range(self.topology.n_stages - 1)]
        options = {"mixer": mixer, "d_state": d_state, "headdim": headdim, "fusion": fusion}
        layers.append(MambaLayer(self.topology.features[-1], self.conv_op, scan=scan_of_block(scan, 0), **options))
        self.build(layers, n_blocks_per_stage, n_blocks_per_stage_decoder)


class UMambaEnc(_UMamba):
    """U-Mamba with Mamba layers throughout the encoder, for one patch size; logits out.

    As :class:`UMambaBot`, with a Mamba layer after every stage in 3D (full resolution included) and after every second
    stage, counted from the last, in 2D. Where a feature map has no more voxels than channels, the layer takes the
    channels as tokens; its weights then belong to the patch size. With nnU-Net's six isotropic stages, patches
    of 128 voxels and deep supervision it has the released code's 42,755,220 parameters (4 channels in, 4 out).

    Args:
        patch_size: size of the input.
        planned, planned_by_name: see :class:`.PlannedNetwork`.
        n_blocks_per_stage, n_blocks_per_stage_decoder, mixer, d_state, headdim, scan, fusion: see :class:`UMambaBot`.

    Raises:
        ValueError: for arguments that do not fit each other; in ``forward`` for an input that does not fit; and in
            ``load_state_dict`` for weights made for another patch size, as far as it shows in their shapes.
    """

    PATCH_ARGUMENTS = ("patch_size",)

    def __init__(
        self,
        *planned: Any,
        n_blocks_per_stage: Sequence[int] | None = None,
        n_blocks_per_stage_decoder: Sequence[int] | None = None,
        mixer: str = "mamba",
        d_state: int = 16,
        headdim: int = 64,
        scan: str = "raster",
        fusion: str = "sum",
        patch_size: Sequence[int],
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        topology, blocks = self.topology, count()
        options = {"mixer": mixer, "d_state": d_state, "headdim": headdim, "fusion": fusion}
        layers: list[nn.Module] = []
        for level, (width, grid) in enumerate(zip(topology.features, topology.grids(patch_size), strict=True)):
            if len(grid) == 2 and (topology.n_stages - level) % 2 == 0:
                layers.append(nn.Identity())
            else:
                channel_grid = grid if math.prod(grid) <= width else None
                of_block = scan_of_block(scan, next(blocks))
                layers.append(MambaLayer(width, self.conv_op, channel_grid, scan=of_block, **options))
        self.build(layers, n_blocks_per_stage, n_blocks_per_stage_decoder)
        self.patch_size = tuple(patch_size)
        self.bound_to_patch_size = any(isinstance(layer, MambaLayer) and layer.channels_as_tokens for layer in layers)

    @classmethod
    def patch_options(cls, patch_size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"patch_size": patch_size}

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        if self.bound_to_patch_size and tuple(x.shape[2:]) != self.patch_size:
            raise ValueError(
                f"input of size {tuple(x.shape[2:])}, but the network was built for {self.patch_size}. {_WHY_ONE_PATCH}"
            )
        return super().forward(x)

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        for level, layer in enumerate(self.encoder.mamba_layers):
            saved = state_dict.get(f"{prefix}encoder.mamba_layers.{level}.norm.weight")
            if saved is None or not isinstance(layer, MambaLayer) or saved.shape == layer.norm.weight.shape:
                continue
            grid = self.topology.grids(self.patch_size)[level]
            raise ValueError(
                f"weights of another patch size: the Mamba layer of stage {level} is {len(saved)} wide in them and "
                f"{len(layer.norm.weight)} wide here, for patches of {self.patch_size} with a feature map of {grid}. "
                f"{_WHY_ONE_PATCH} Use the plans they were made with, or UMambaBot, which fits any patch"
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
