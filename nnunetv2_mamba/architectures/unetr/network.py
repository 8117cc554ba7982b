"""UNETR (Hatamizadeh et al. 2022, arXiv 2103.10504), of the blocks of MONAI's ``UNETR``, in nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..blocks.dimensions import spatial_dims
from ..blocks.half_precision import LARGEST, saturate_inputs, saturate_layers
from ..blocks.monai_library import monai
from ..blocks.sizes import check_size
from ..blocks.tokens import to_volume
from ..contract import PlannedNetwork
from ..topology import isotropic_strides

_STAGES = 5  # tokens are of 16 voxels per axis
_BLOCKS = (4, 3, 3, 2)  # of the transformer's twelve, up to each skip connection and to the end


class UNETREncoder(nn.Module):
    """A vision transformer; skip connections upsample its tokens, the first convolves the images.

    Args:
        transformer: MONAI's ``ViT``.
        skips: of every level but the lowest, from full resolution.
        grid: of the tokens.
    """

    def __init__(self, transformer: nn.Module, skips: Sequence[nn.Module], grid: Sequence[int]):
        super().__init__()
        self.patch_embedding = transformer.patch_embedding
        blocks = iter(transformer.blocks)
        self.stages = nn.ModuleList(nn.Sequential(*(next(blocks) for _ in range(number))) for number in _BLOCKS)
        self.norm = transformer.norm
        self.skips = nn.ModuleList(skips)
        self.grid = tuple(grid)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the features of every level, highest resolution first."""
        on_images, *on_tokens = self.skips
        features = [on_images(x)]
        tokens = self.patch_embedding(x)
        *stages, last = self.stages
        for stage, skip in zip(stages, on_tokens, strict=True):
            tokens = stage(tokens)
            within = tokens.clamp(-LARGEST, LARGEST)  # the residual sums are fp32, what upsamples them may be fp16
            features.append(skip(to_volume(within, self.grid)))
        return [*features, to_volume(self.norm(last(tokens)), self.grid)]


class UNETR(PlannedNetwork):
    """UNETR, for one patch size; logits out.

    A vision transformer on tokens of 16 voxels per axis, four of whose twelve blocks' outputs are upsampled into a
    convolutional decoder. It has five stages, each of which halves every axis, whatever the plan has, so every axis of
    the patch is a multiple of 16. The weights are initialised as MONAI does. Input ``(batch, input_channels,
    *patch_size)``; output ``(batch, num_classes, *patch_size)`` or, with deep supervision, which the paper does not
    have, a list of logits, highest resolution first.

    Args:
        planned, planned_by_name: see :class:`.PlannedNetwork`. ``features_per_stage`` is W, 2 W, 4 W, 8 W and the width
            of the transformer; the paper's 16, 32, 64, 128, 768.
        num_heads: of the attention.
        mlp_ratio: width of the transformer's MLP over that of its tokens.
        patch_size: size of the input, which the position embedding is for.

    Raises:
        ValueError: for arguments that do not fit each other; in ``forward`` for an input that does not fit.
    """

    PATCH_ARGUMENTS = ("patch_size",)
    key_to_stem = "encoder.patch_embedding"
    keys_to_in_proj = ("encoder.patch_embedding.patch_embeddings",)

    def __init__(
        self,
        *planned: Any,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        patch_size: Sequence[int],
        **planned_by_name: Any,
    ):
        super().__init__(*planned, **planned_by_name)
        *_, grid = self.topology.grids(patch_size)
        width, *_, tokens = self.topology.features
        self.check_widths([width, 2 * width, 4 * width, 8 * width, tokens])
        check_size("mlp_ratio", mlp_ratio)
        if tokens % check_size("num_heads", num_heads):
            raise ValueError(f"num_heads must divide the transformer's width, {tokens}; got {num_heads}")
        net = monai("networks.nets").UNETR(
            in_channels=self.input_channels,
            out_channels=self.num_classes,
            img_size=tuple(patch_size),
            feature_size=width,
            hidden_size=tokens,
            mlp_dim=mlp_ratio * tokens,
            num_heads=num_heads,
            spatial_dims=spatial_dims(self.conv_op),
        )
        for block in net.vit.blocks:  # what MONAI makes for attention to other tokens, and does not use here
            block.cross_attn = block.norm_cross_attn = nn.Identity()
        self.encoder = UNETREncoder(net.vit, [net.encoder1, net.encoder2, net.encoder3, net.encoder4], grid)
        levels = [net.decoder2, net.decoder3, net.decoder4, net.decoder5]
        self.decoder = self.make_decoder(lambda level: (levels[level].transp_conv, levels[level].conv_block))
        self.patch_size = tuple(patch_size)
        self.key_to_lpe = "encoder.patch_embedding.position_embeddings"
        residual_block = monai("networks.blocks.dynunet_block").UnetResBlock
        for module in self.modules():
            if isinstance(module, residual_block):
                saturate_inputs(module.lrelu)  # of the residual sum
        saturate_layers(self)

    @classmethod
    def stages(cls, strides: Sequence, kernel_sizes: Sequence) -> tuple[Sequence, Sequence]:
        dims = len(strides[0])
        return isotropic_strides(_STAGES, dims), [[3] * dims] * _STAGES

    @staticmethod
    def default_features(n_stages: int) -> list[int]:
        """Return the paper's widths."""
        return [16, 32, 64, 128, 768]

    @classmethod
    def patch_options(cls, patch_size: Sequence[int], arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"patch_size": patch_size}

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        self.topology.check_input(x, self.input_channels)
        if tuple(x.shape[2:]) != self.patch_size:
            raise ValueError(
                f"input of size {tuple(x.shape[2:])}, but the network was built for {self.patch_size}, of which its "
                "position embedding is"
            )
        return super().forward(x)
