"""MSD-KMamba (Tan et al. 2025, arXiv 2509.23677): a reconstruction from the paper's abstract, for any nnU-Net plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_convtransp, get_matching_instancenorm
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from ..blocks.half_precision import saturate_layers, saturated
from ..blocks.mixers import sequence_mixer
from ..blocks.plain_conv import PlainConvBlock
from ..blocks.scan_paths import scans_of_stages
from ..blocks.tokens import to_tokens, to_volume
from ..contract import PlannedNetwork
from ..segmamba.gated_spatial_conv import GatedSpatialConv
from ..segmamba.network import SegMamba, SegMambaEncoder, decoder_level
from ..topology import Topology, sizes_per_stage
from .fused_head import FusedHead
from .kan import kan_block

WIRINGS = ("inline", "skip")
LAYOUTS = ("nnunet", "segmamba")
LAYER_SCALE = 1e-2  # how much of the KAN block the stage starts with


class _MambaLayer(nn.Module):
    """``tokens + Mamba(LayerNorm(tokens))``."""

    def __init__(self, channels: int, conv_op: type[nn.Module], scan: str, mixer: str, **mixer_options: Any):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mamba = sequence_mixer(mixer, channels, conv_op, scan, **mixer_options)

    def forward(self, tokens: torch.Tensor, grid: Sequence[int]) -> torch.Tensor:
        return saturated(tokens + self.mamba(self.norm(tokens), grid))


class BSAStage(nn.Module):
    """Downsample, then the bidirectional spatial-aware branch: gated convolution, Mamba layers, KAN block.

    With ``u`` what the Mamba layers give and ``k = KAN(InstanceNorm(u))``, wiring ``"inline"`` sends ``u + gamma k``
    both to the next stage and to the skip connection, ``gamma`` a learned factor per channel; ``"skip"`` sends ``u`` to
    the next stage and ``k`` to the skip connection, as SegMamba does with its MLP.
    """

    def __init__(
        self,
        downsample: nn.Module,
        channels: int,
        conv_op: type[nn.Module],
        kernel_size: Sequence[int],
        scans: Sequence[str],
        mixer: str,
        kan: str,
        kan_wiring: str,
        gate: str,
        **mixer_options: Any,
    ):
        super().__init__()
        self.downsample = downsample
        self.gated_conv = GatedSpatialConv(channels, conv_op, kernel_size, gate)
        self.mamba_layers = nn.ModuleList(
            _MambaLayer(channels, conv_op, scan, mixer, **mixer_options) for scan in scans
        )
        self.kan = nn.Sequential(get_matching_instancenorm(conv_op)(channels), *kan_block(kan, channels, conv_op))
        if kan_wiring == "inline":
            self.gamma = nn.Parameter(torch.full((channels, *(1,) * len(kernel_size)), LAYER_SCALE))
        self.kan_wiring = kan_wiring

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the features for the next stage and those for the skip connection."""
        x = self.gated_conv(self.downsample(x))
        grid = x.shape[2:]
        tokens = to_tokens(x)
        for layer in self.mamba_layers:
            tokens = layer(tokens, grid)
        x = to_volume(tokens, grid)
        if self.kan_wiring == "skip":
            return x, self.kan(x)
        x = saturated(x + self.gamma.to(x.dtype) * self.kan(x))  # a parameter alone would make it fp32
        return x, x


class MSDKMambaEncoder(nn.Module):
    """nnU-Net's two convolutions at full resolution, then a BSA stage per level.

    Args:
        make_stage: called with a level, its downsampling and its width.
    """

    def __init__(
        self,
        input_channels: int,
        topology: Topology,
        conv_op: type[nn.Module],
        make_stage: Callable[[int, nn.Module, int], BSAStage],
    ):
        super().__init__()
        features, strides = topology.features, topology.strides
        norm = get_matching_instancenorm(conv_op)
        self.stem = PlainConvBlock(input_channels, features[0], conv_op, topology.kernel_sizes[0])
        stages = []
        for level in range(1, topology.n_stages):
            above, width, stride = features[level - 1], features[level], strides[level]
            stages.append(make_stage(level, nn.Sequential(norm(above), conv_op(above, width, stride, stride)), width))
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first, the bottleneck last."""
        x = self.stem(x)
        skips = [x]
        for stage in self.stages:
            x, skip = stage(x)
            skips.append(skip)
        return skips


def _decoder_level(topology: Topology, conv_op: type[nn.Module], level: int) -> tuple[nn.Module, nn.Module]:
    """Return nnU-Net's upsampling to a level, and its convolutions there."""
    below, width, stride = topology.features[level + 1], topology.features[level], topology.strides[level + 1]
    upsampling = get_matching_convtransp(conv_op)(below, width, stride, stride)
    return upsampling, PlainConvBlock(2 * width, width, conv_op, topology.kernel_sizes[level])


class MSDKMamba(PlannedNetwork):
    """MSD-KMamba-style network, built from a plan; logits out.

    **A reconstruction.** Only the abstract of the paper is known to us: "bidirectional spatial perception", a
    "bidirectional spatial aware branch" with "a powerful nonlinear feature extraction mechanism", and a "multi-scale
    self-distilled fusion strategy". Everything else is chosen here, after the networks that it seems to descend from
    (SegMamba; TK-Mamba, which puts a KAN in place of SegMamba's MLP); see ``docs/networks/msd_kmamba.md``.

    Input ``(batch, input_channels, *grid)``, every axis a multiple of its total stride; output
    ``(batch, num_classes, *grid)`` or, with deep supervision, a list of logits, highest resolution first, and with
    ``fused_head`` one more last entry, their fusion at full resolution. What serves training only, the lower heads and
    the fusion's weights, exists only in a network built with deep supervision; a network built without takes its
    checkpoints and leaves those weights out. ``decoder.deep_supervision = False`` switches it off in a built network.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`.
        n_mamba_layers_per_stage: Mamba layers of each of the ``n_stages - 1`` stages after the first.
        scan: the paths of the Mamba layers; see ``docs/scan_orders.md``. ``"bidirectional"`` is forward and reverse,
            ``"tri_oriented"`` inter-slice, too, as SegMamba.
        kan: ``"rational"``, ``"bspline"``, ``"rbf"``, or the control ``"mlp"``; see :func:`.msd_kmamba.kan.kan_block`.
        kan_wiring: ``"inline"`` or ``"skip"``; see :class:`BSAStage`.
        gate: ``"add"`` or ``"multiply"`` in the gated spatial convolution.
        mixer: ``"mamba"``, ``"mamba2"``, or a control: ``"none"`` (identity) or ``"conv"`` (depthwise convolution of
            about as many weights) in place of the state-space part.
        d_state: state size.
        headdim: width of a head of Mamba-2; see :func:`.directional_ssd.head_size` for widths that do not fit.
        layout: ``"nnunet"``, two convolutions at full resolution, a BSA stage per further level, nnU-Net's decoder;
            or ``"segmamba"``, the trunk one width behind the levels, residual blocks on the skip connections and in the
            decoder. The latter with ``kan_wiring="skip"`` and widths 48, 96, 192, 384, 768 is SegMamba with two scans
            and a KAN.
        fused_head: whether deep supervision adds the fusion.
        fusion: of the paths: their ``"sum"`` or ``"learned"``, with a weight per path and channel.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    widths_from_plan = True
    missing_stages = {"n_mamba_layers_per_stage": 1}
    key_to_encoder = "encoder.stages"
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.0",)

    def __init__(
        self,
        *planned: Any,
        n_mamba_layers_per_stage: int | Sequence[int] = 2,
        scan: str = "bidirectional",
        kan: str = "rational",
        kan_wiring: str = "inline",
        gate: str = "add",
        mixer: str = "mamba",
        d_state: int = 16,
        headdim: int = 64,
        layout: str = "nnunet",
        fused_head: bool = False,
        fusion: str = "sum",
        **planned_by_name: Any,
    ):
        choices = {"kan_wiring": (kan_wiring, WIRINGS), "layout": (layout, LAYOUTS)}
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")
        super().__init__(*planned, **planned_by_name)
        topology, conv_op = self.topology, self.conv_op
        n_mamba_layers = sizes_per_stage(
            "n_mamba_layers_per_stage", n_mamba_layers_per_stage, topology.n_stages - 1, least=0
        )

        def make_stage(level: int, downsample: nn.Module, width: int) -> BSAStage:
            kernel = topology.kernel_sizes[level]
            kinds = {"mixer": mixer, "kan": kan, "kan_wiring": kan_wiring, "gate": gate, "fusion": fusion}
            sizes = {"d_state": d_state, "headdim": headdim}
            return BSAStage(downsample, width, conv_op, kernel, scans[level - 1], **kinds, **sizes)

        scans = scans_of_stages(scan, n_mamba_layers)
        nnunet = layout == "nnunet"
        encoder_class, make_level = (MSDKMambaEncoder, _decoder_level) if nnunet else (SegMambaEncoder, decoder_level)
        self.encoder = encoder_class(self.input_channels, topology, conv_op, make_stage)
        self.decoder = self.make_decoder(partial(make_level, topology, conv_op))
        if nnunet:
            for part in (self.encoder.stem, self.decoder):
                part.apply(InitWeights_He(1e-2))
        else:
            self.key_to_encoder, self.key_to_stem = SegMamba.key_to_encoder, SegMamba.key_to_stem
            self.keys_to_in_proj = SegMamba.keys_to_in_proj
        self.fused_head = FusedHead(topology.n_stages - 1) if fused_head and self.built_with_deep_supervision else None
        saturate_layers(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        logits = super().forward(x)
        if self.decoder.deep_supervision and self.fused_head is not None:
            logits.append(self.fused_head(logits))
        return logits

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        if self.fused_head is None:
            state_dict.pop(prefix + "fused_head.weight", None)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
