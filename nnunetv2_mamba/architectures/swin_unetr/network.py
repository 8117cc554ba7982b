"""Swin UNETR (Hatamizadeh et al. 2022, arXiv 2201.01266), of the blocks of MONAI's ``SwinUNETR``, in nnU-Net plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import saturate_inputs, saturate_layers, saturate_outputs
from ..blocks.monai_library import monai
from ..blocks.sizes import check_rate, check_size
from ..contract import PlannedNetwork
from ..topology import isotropic_strides, sizes_per_stage

_STAGES = 6  # full resolution, tokens of 2 voxels per axis, and four times half of that


class SwinEncoder(nn.Module):
    """A Swin transformer, with a residual block on every skip connection but one.

    Args:
        transformer: MONAI's ``SwinTransformer``.
        skips: of every level, from full resolution; the first is of the images.
    """

    def __init__(self, transformer: nn.Module, skips: Sequence[nn.Module]):
        super().__init__()
        self.patch_embed, self.pos_drop = transformer.patch_embed, transformer.pos_drop
        layers = (transformer.layers1, transformer.layers2, transformer.layers3, transformer.layers4)
        self.stages = nn.ModuleList(stage for (stage,) in layers)
        self.skips = nn.ModuleList(skips)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first."""
        on_images, on_tokens, *others = self.skips
        features = [on_images(x)]
        x = self.pos_drop(self.patch_embed(x))
        features.append(on_tokens(_normalised(x)))
        for stage, skip in zip(self.stages, others, strict=True):
            x = stage(x.contiguous())
            features.append(skip(_normalised(x)))
        return features


def _normalised(x: torch.Tensor) -> torch.Tensor:
    """Return ``(batch, channels, *grid)`` with the channels of every voxel normalised."""
    return functional.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)


class _LinspaceOfNumpy(TorchFunctionMode):
    """The transformer reads rates of drop path from a tensor, which has no values on the meta device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.linspace:
            return np.linspace(*args)
        return func(*args, **(kwargs or {}))


class SwinUNETR(PlannedNetwork):
    """Swin UNETR; logits out.

    A transformer with attention inside of shifted windows, whose four stages go through residual blocks into a
    convolutional decoder. It has six stages, each of which halves every axis, whatever the plan has, so every axis of
    the input is a multiple of 32. With the paper's widths it has MONAI's 62,187,296 parameters (1 channel in, 14
    classes). The weights are initialised as MONAI does. Input ``(batch, input_channels, *grid)``; output
    ``(batch, num_classes, *grid)`` or, with deep supervision, which the paper does not have, a list of logits, highest
    resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. ``features_per_stage`` is W, W, 2 W, 4 W, 8 W, 16 W for
            a W that 12 divides; the paper's is 48.
        depths: blocks of each of the transformer's four stages.
        num_heads: of the attention in each of them.
        window_size: of the attention, in tokens per axis.
        drop_path: rate of stochastic depth of the deepest block; it rises from 0 at the first.

    Raises:
        ValueError: for arguments that do not fit each other, and in ``forward`` for an input that does not fit.
    """

    key_to_stem = "encoder.patch_embed"
    keys_to_in_proj = ("encoder.patch_embed.proj",)

    def __init__(
        self,
        *planned: Any,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        drop_path: float = 0.0,
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        width = self.topology.features[0]
        self.check_widths([width, *(width * 2**stage for stage in range(_STAGES - 1))])
        if width % 12:
            raise ValueError(f"features_per_stage of SwinUNETR must begin with a multiple of 12, got {width}")
        depths = sizes_per_stage("depths", depths, 4)
        num_heads = sizes_per_stage("num_heads", num_heads, 4)
        check_size("window_size", window_size)
        check_rate("drop_path", drop_path)
        if any(width * 2**stage % heads for stage, heads in enumerate(num_heads)):
            raise ValueError(f"num_heads must divide the widths of the stages, {width} doubling; got {list(num_heads)}")
        with _LinspaceOfNumpy():
            net = monai("networks.nets").SwinUNETR(
                in_channels=self.input_channels,
                out_channels=self.num_classes,
                depths=tuple(depths),
                num_heads=tuple(num_heads),
                window_size=window_size,
                feature_size=width,
                dropout_path_rate=drop_path,
                spatial_dims=spatial_dims(self.conv_op),
            )
        skips = [net.encoder1, net.encoder2, net.encoder3, net.encoder4, nn.Identity(), net.encoder10]
        self.encoder = SwinEncoder(net.swinViT, skips)
        levels = [net.decoder1, net.decoder2, net.decoder3, net.decoder4, net.decoder5]
        self.decoder = self.make_decoder(lambda level: (levels[level].transp_conv, levels[level].conv_block))
        residual_block = monai("networks.blocks.dynunet_block").UnetResBlock
        transformer_block = monai("networks.nets.swin_unetr").SwinTransformerBlock
        for module in self.modules():
            if isinstance(module, residual_block):
                saturate_inputs(module.lrelu)  # of the residual sum
            elif isinstance(module, transformer_block):  # of its two residual sums
                saturate_inputs(module.norm2)
                saturate_outputs(module)
        saturate_layers(self)

    @classmethod
    def stages(cls, strides: Sequence, kernel_sizes: Sequence) -> tuple[Sequence, Sequence]:
        dims = len(strides[0])
        return isotropic_strides(_STAGES, dims), [[3] * dims] * _STAGES

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths."""
        return [48, 48, 96, 192, 384, 768]
