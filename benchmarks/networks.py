"""The networks that the other benchmarks build, at the sizes of their papers, and one step of training them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from nnunetv2_mamba.architectures import MedSegMamba, SegMamba, UMambaEnc

SEGMAMBA_PAPER_TRAINING_MIB = 17976
MEDSEGMAMBA_PAPER_INFERENCE_MIB = 1.988 * 1024

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
_SEGMAMBA = {"input_channels": 4, "num_classes": 4, **_FIVE_STAGES, **_CONV}
_UMAMBA = {"input_channels": 1, "num_classes": 4, **_SIX_STAGES, **_CONV, "patch_size": (128, 128, 128)}
_MEDSEGMAMBA = {"input_channels": 1, "num_classes": 32, **_FOUR_STAGES, **_CONV}


@dataclass
class Network:
    """How to build a network, and the paper's patch: voxels along each of three axes, and channels."""

    build: Callable[[], nn.Module]
    edge: int
    channels: int


OURS = {
    "SegMamba": Network(lambda: SegMamba(**_SEGMAMBA), 128, 4),
    "SegMamba, no Mamba": Network(lambda: SegMamba(**_SEGMAMBA, mixer="none"), 128, 4),
    "MedSegMamba": Network(lambda: MedSegMamba(**_MEDSEGMAMBA), 96, 1),
    "MedSegMamba, no Mamba": Network(lambda: MedSegMamba(**_MEDSEGMAMBA, mixer="none"), 96, 1),
}

U_MAMBA = {
    "U-Mamba Enc": Network(lambda: UMambaEnc(**_UMAMBA), 128, 1),
    "U-Mamba Enc, no Mamba": Network(lambda: UMambaEnc(**_UMAMBA, mixer="none"), 128, 1),
}


def nnunet_networks() -> dict[str, Network]:
    """nnU-Net's own networks at SegMamba's plan, with nnU-Net's widths; raises ImportError where they are missing."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    rest = {"conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}}
    rest |= {"nonlin": nn.LeakyReLU, "nonlin_kwargs": {"inplace": True}}
    common = _SEGMAMBA | rest | {"features_per_stage": [32, 64, 128, 256, 320]}
    plain = common | {"n_conv_per_stage": 2, "n_conv_per_stage_decoder": 2}
    residual = common | {"n_blocks_per_stage": [1, 3, 4, 6, 6], "n_conv_per_stage_decoder": 1}
    return {
        "PlainConvUNet": Network(lambda: PlainConvUNet(**plain), 128, 4),
        "ResidualEncoderUNet": Network(lambda: ResidualEncoderUNet(**residual), 128, 4),
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
