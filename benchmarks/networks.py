"""The networks that the other benchmarks build, at the sizes of their papers, and one step of training them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

from nnunetv2_mamba.architectures import MedSegMamba, MSDKMamba, SegMamba, UMamba2, UMambaBot, UMambaEnc

_FIVE_STAGES = {
    "n_stages": 5,
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2, 2],
    "features_per_stage": [48, 96, 192, 384, 768],
}
_FOUR_STAGES = {"n_stages": 4, "kernel_sizes": 3, "strides": [1, 2, 2, 2], "features_per_stage": [32, 64, 128, 256]}
_CONV = {"conv_op": nn.Conv3d, "deep_supervision": False}
_SIX_STAGES = {
    "n_stages": 6,
    "kernel_sizes": 3,
    "strides": [1, 2, 2, 2, 2, 2],
    "features_per_stage": [32, 64, 128, 256, 320, 320],
}
_THREE_SMALL_STAGES = {"n_stages": 3, "strides": [1, 2, 2], "features_per_stage": [8, 16, 16]}
_BRATS = {"input_channels": 4, "num_classes": 4, **_CONV}
_SEGMAMBA = {**_BRATS, **_FIVE_STAGES}
_UMAMBA = {"input_channels": 1, "num_classes": 4, **_SIX_STAGES, **_CONV, "patch_size": (128, 128, 128)}
_MEDSEGMAMBA = {"input_channels": 1, "num_classes": 32, **_FOUR_STAGES, **_CONV}
_NNUNET = {
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
_PLAIN = {**_BRATS, **_SIX_STAGES, **_NNUNET, "n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
_RESENC_M = {
    **_BRATS,
    **_SIX_STAGES,
    **_NNUNET,
    "n_blocks_per_stage": [1, 3, 4, 6, 6, 6],
    "n_conv_per_stage_decoder": 1,
}


@dataclass(frozen=True)
class Network:
    """A network and the paper's patch.

    Attributes:
        network_class: what is built.
        arguments: of its constructor.
        edge: voxels of the patch along each of three axes.
        optimizer: of its trainer, ``"sgd"`` or ``"adamw"``.
        small: arguments that make a small network of three stages, beside its widths.
    """

    network_class: type[nn.Module]
    arguments: dict[str, Any]
    edge: int
    optimizer: str = "sgd"
    small: dict[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.arguments["input_channels"]

    def build(self, **changes: Any) -> nn.Module:
        """Return a new network; ``changes`` override its arguments."""
        return self.network_class(**{**self.arguments, **changes})

    def made_small(self) -> "Network":
        """Return it with three stages of a few channels, for patches of 16 voxels: to try what is done with it."""
        arguments = {**self.arguments, **_THREE_SMALL_STAGES, **self.small}
        if "patch_size" in arguments:
            arguments["patch_size"] = (16, 16, 16)
        return replace(self, arguments=arguments, edge=16)


_FEW_BLOCKS = {"bottleneck_channels": 32, "n_bottleneck_blocks": 2}
_ONE_LAYER = {"n_tom_layers_per_stage": 1}

OURS = {
    "SegMamba": Network(SegMamba, _SEGMAMBA, 128, small=_ONE_LAYER),
    "SegMamba, no Mamba": Network(SegMamba, {**_SEGMAMBA, "mixer": "none"}, 128, small=_ONE_LAYER),
    "MedSegMamba": Network(MedSegMamba, _MEDSEGMAMBA, 96, "adamw", _FEW_BLOCKS),
    "MedSegMamba, no Mamba": Network(MedSegMamba, {**_MEDSEGMAMBA, "mixer": "none"}, 96, "adamw", _FEW_BLOCKS),
}

U_MAMBA = {
    "U-Mamba Enc": Network(UMambaEnc, _UMAMBA, 128),
    "U-Mamba Enc, no Mamba": Network(UMambaEnc, {**_UMAMBA, "mixer": "none"}, 128),
}

# One network of each class, and nnU-Net's two beside them: its default one and ResEnc M.
ONE_OF_EACH = {
    "SegMamba": OURS["SegMamba"],
    "MedSegMamba": OURS["MedSegMamba"],
    "MSD-KMamba": Network(MSDKMamba, {**_BRATS, **_SIX_STAGES}, 128, small={"n_mamba_layers_per_stage": 1}),
    "U-Mamba Bot": Network(UMambaBot, {key: value for key, value in _UMAMBA.items() if key != "patch_size"}, 128),
    "U-Mamba Enc": U_MAMBA["U-Mamba Enc"],
    "U-Mamba2": Network(UMamba2, {**_BRATS, **_SIX_STAGES}, 128, small={"n_blocks_per_stage": 1}),
    "PlainConvUNet": Network(PlainConvUNet, _PLAIN, 128),
    "ResEnc M": Network(ResidualEncoderUNet, _RESENC_M, 128, small={"n_blocks_per_stage": 1}),
}


def training_step(
    network: nn.Module, grid: tuple[int, ...], channels: int, batch: int, low_precision: torch.dtype | None
) -> Callable[[], None]:
    """One step of nnU-Net's optimiser on a random patch, in mixed precision unless `low_precision` is None.

    The loss is scaled where `low_precision` is fp16. Everything lives on the device of the network's parameters.
    """
    device = next(network.parameters()).device
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=low_precision == torch.float16)
    image = torch.randn(batch, channels, *grid, device=device)
    target = torch.randint(4, (batch, *grid), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, low_precision, enabled=low_precision is not None):
            loss = nn.functional.cross_entropy(network(image), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step
