"""Small networks of every kind whose memory is estimated, for patches of about 32 voxels."""

from functools import partial

from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from registered_networks import fitting, own_stages, small_arguments
from torch import nn

from nnunetv2_mamba.architectures import registry

TOPOLOGY = {
    "input_channels": 2,
    "n_stages": 3,
    "features_per_stage": [8, 16, 16],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "num_classes": 4,
    "deep_supervision": True,
}
NNUNET = {
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"affine": True},
    "conv_bias": True,
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "n_conv_per_stage_decoder": [1, 1],
}
NETWORKS = {
    **{
        name: partial(network.network_class, **small_arguments(name, TOPOLOGY, [32, 32, 32]))
        for name, network in registry.NETWORKS.items()
    },
    "PlainConvUNet": partial(PlainConvUNet, **TOPOLOGY, **NNUNET, n_conv_per_stage=[2, 2, 2]),
    "ResidualEncoderUNet": partial(ResidualEncoderUNet, **TOPOLOGY, **NNUNET, n_blocks_per_stage=[1, 2, 2]),
}


def fitting_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest shape around this one, (batch, channels, *patch), that the network takes."""
    if name not in registry.NETWORKS:
        return shape
    return (*shape[:2], *fitting(name, own_stages(name, TOPOLOGY)["strides"], shape[2:]))
