"""U-Mamba2 (Tan et al. 2025, arXiv 2509.12069) for any nnU-Net plan, built from a description of what it computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm
from dynamic_network_architectures.building_blocks.residual import BasicBlockD
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He, init_last_bn_before_add_to_0
from torch import nn

from ..blocks.half_precision import saturate_inputs, saturate_layers
from ..blocks.mamba_layer import MambaLayer
from ..blocks.scan_paths import scan_of_block
from ..contract import PlannedNetwork
from ..topology import sizes_per_stage

# Of nnU-Net's planner for residual encoders, from full resolution down; deeper stages have as many as the last.
_BLOCKS = (1, 3, 4, 6)


class UMamba2(PlannedNetwork):
    """U-Mamba2, built from a plan; logits out.

    It is nnU-Net's ``ResidualEncoderUNet``, whose lowest features go through ``Mamba2(LayerNorm(x))``: one raster scan,
    no residual. With the stages of its authors' ToothFairy3 plan and deep supervision it has the released code's
    142,171,820 parameters (1 channel in, 46 classes), 642,264 of them in that layer. Plans of a residual encoder U-Net
    give the numbers of blocks and all else that nnU-Net's planner writes for it; with others the numbers of blocks are
    that planner's.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`.
        n_blocks_per_stage: residual blocks of each stage; default 1, 3, 4, and 6 in all deeper ones.
        n_conv_per_stage_decoder: convolutions of each of the ``n_stages - 1`` stages of the decoder, deepest first.
        d_state: state size.
        headdim: width of a head of Mamba-2. Where ``expand`` times the lowest stage's width is no multiple of it, the
            divisor nearest by ratio is taken (:func:`.directional_ssd.head_size`).
        expand: factor of the inner width.
        mixer: ``"mamba2"``, or a control: ``"none"`` (identity) or ``"conv"`` (depthwise convolution of about as many
            weights) in place of causal convolution and scan; both keep projections, gate and the norm after it.
        scan: the paths of the Mamba layer; see ``docs/scan_orders.md``. The paper's is ``"raster"``.
        fusion: ``"sum"`` of the paths or ``"learned"``, with a weight per path and channel.
        conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs: of the convolutions,
            as in ``ResidualEncoderUNet``; the defaults are nnU-Net's: bias, affine instance norm, no dropout,
            LeakyReLU.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    widths_from_plan = True
    missing_stages = {"n_blocks_per_stage": 0, "n_conv_per_stage_decoder": 1}
    options_from_plan = (
        "n_blocks_per_stage",
        "n_conv_per_stage_decoder",
        "conv_bias",
        "norm_op",
        "norm_op_kwargs",
        "dropout_op",
        "dropout_op_kwargs",
        "nonlin",
        "nonlin_kwargs",
    )
    key_to_encoder = "encoder.stages"
    key_to_stem = "encoder.stem"
    keys_to_in_proj = ("encoder.stem.convs.0.conv", "encoder.stem.convs.0.all_modules.0")
    keys_to_bottleneck = ("mamba_layer",)

    def __init__(
        self,
        *planned: Any,
        n_blocks_per_stage: int | Sequence[int] | None = None,
        n_conv_per_stage_decoder: int | Sequence[int] = 1,
        d_state: int = 32,
        headdim: int = 80,
        expand: int = 2,
        mixer: str = "mamba2",
        scan: str = "raster",
        fusion: str = "sum",
        conv_bias: bool = True,
        norm_op: type[nn.Module] | None = None,
        norm_op_kwargs: Mapping[str, Any] | None = None,
        dropout_op: type[nn.Module] | None = None,
        dropout_op_kwargs: Mapping[str, Any] | None = None,
        nonlin: type[nn.Module] = nn.LeakyReLU,
        nonlin_kwargs: Mapping[str, Any] | None = None,
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        if dropout_op_kwargs and dropout_op is None:
            raise ValueError("dropout_op_kwargs have no effect without dropout_op; leave them out")
        topology, conv_op = self.topology, self.conv_op
        n_stages = topology.n_stages
        if n_blocks_per_stage is None:
            n_blocks_per_stage = [_BLOCKS[min(stage, len(_BLOCKS) - 1)] for stage in range(n_stages)]
        n_blocks = sizes_per_stage("n_blocks_per_stage", n_blocks_per_stage, n_stages)
        n_convs = sizes_per_stage("n_conv_per_stage_decoder", n_conv_per_stage_decoder, n_stages - 1)
        self.encoder = ResidualEncoder(
            self.input_channels,
            n_stages,
            topology.features,
            conv_op,
            topology.kernel_sizes,
            topology.strides,
            n_blocks,
            conv_bias,
            norm_op or get_matching_instancenorm(conv_op),
            {"eps": 1e-5, "affine": True} if norm_op_kwargs is None else norm_op_kwargs,
            dropout_op,
            dropout_op_kwargs,
            nonlin,
            {"inplace": True} if nonlin_kwargs is None else nonlin_kwargs,
            return_skips=True,
        )
        options = {"mixer": mixer, "d_state": d_state, "headdim": headdim, "expand": expand, "fusion": fusion}
        options["scan"] = scan_of_block(scan, 0)
        self.mamba_layer = MambaLayer(topology.features[-1], conv_op, controls_of="mamba2", **options)
        plain = UNetDecoder(self.encoder, self.num_classes, n_convs, deep_supervision=False)
        levels = list(zip(plain.transpconvs, plain.stages, strict=True))
        self.decoder = self.make_decoder(lambda level: levels[-1 - level])
        self.apply(InitWeights_He(1e-2))
        self.apply(init_last_bn_before_add_to_0)
        self._fit_blocks()
        saturate_layers(self)

    def _fit_blocks(self) -> None:
        """Let activation checkpointing, pickle and fp16 do with the encoder's blocks what they do with our own."""
        self.encoder.stages = nn.ModuleList(self.encoder.stages)  # which is checkpointed stage by stage
        for block in self.encoder.modules():
            if isinstance(block, BasicBlockD):
                saturate_inputs(block.nonlin2)  # of the residual sum
                if not isinstance(block.skip, nn.Module):  # a lambda
                    block.skip = nn.Identity()

    def features(self, x: torch.Tensor) -> list[torch.Tensor | None]:
        *skips, lowest = self.encoder(x)
        return [*skips, self.mamba_layer(lowest)]
