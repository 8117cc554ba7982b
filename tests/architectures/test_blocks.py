"""Blocks by their definitions, where no released code could be run to compare with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nnunetv2_mamba.architectures import SegMamba
from nnunetv2_mamba.architectures.segmamba.feature_uncertainty import FeatureLevelUncertaintyEstimation


def test_feature_level_uncertainty_estimation():
    """p = sigmoid(mean of the channels), u = -p ln p, z + z (1 - u), voxel by voxel."""
    z = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64) * 3
    scaled = FeatureLevelUncertaintyEstimation()(z)
    for batch, *voxel in torch.cartesian_prod(*(torch.arange(2) for _ in range(4))).tolist():
        features = z[(batch, slice(None), *voxel)]
        p = 1 / (1 + math.exp(-features.mean().item()))
        u = -p * math.log(p)
        torch.testing.assert_close(
            scaled[(batch, slice(None), *voxel)], features + features * (1 - u), rtol=1e-6, atol=0
        )


def test_certain_features_are_doubled_and_the_least_certain_gain_least():
    """u vanishes where p is 0 or 1 and is 1/e at most, at p = 1/e."""
    least = math.log(1 / (math.e - 1))  # sigmoid of it is 1/e
    z = torch.tensor([-200.0, 0.0, least, 200.0]).view(1, 1, 4, 1, 1)
    scaled = FeatureLevelUncertaintyEstimation()(z).flatten()
    torch.testing.assert_close(scaled, torch.tensor([-400.0, 0.0, least * (2 - 1 / math.e), 400.0]))


def test_uncertainty_scales_the_skips_and_leaves_the_trunk():
    network = SegMamba(1, 3, [4, 8, 8], nn.Conv3d, 3, [1, 2, 2], 2, n_tom_layers_per_stage=1, fue=True).eval()
    given, taken = [], []
    for stage, block in zip(network.encoder.stages, network.encoder.skip_blocks[1:], strict=True):
        stage.register_forward_hook(lambda _module, _inputs, output: given.append(output))
        stage.skip_mlp.register_forward_hook(lambda _module, inputs, output: taken.append((inputs[0], output)))
        block.register_forward_hook(lambda _module, inputs, _output: taken.append(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, 8, 8, 16))
        for level, (trunk, skip) in enumerate(given):
            (mlp_input, mlp_output), block_input = taken[2 * level : 2 * level + 2]
            assert trunk is mlp_input
            assert torch.equal(skip, FeatureLevelUncertaintyEstimation()(mlp_output))
            assert block_input is skip


@pytest.mark.parametrize(
    ("conv_op", "kernel_sizes", "stem"),
    [
        (nn.Conv3d, 3, (7, 7, 7)),
        (nn.Conv3d, [[1, 3, 3], [1, 3, 3], [3, 3, 3]], (1, 7, 7)),
        (nn.Conv3d, [[3, 3, 1]] * 3, (7, 7, 1)),
        (nn.Conv3d, [[1, 3, 3], [3, 3, 3], [3, 3, 3]], (7, 7, 7)),  # the stem works at the second resolution
        (nn.Conv2d, 3, (7, 7)),
    ],
)
def test_stem_is_7_wide_on_the_axes_that_the_plan_convolves(conv_op, kernel_sizes, stem):
    """And where it is 1 wide, voxels of other slices have no part in what it gives."""
    network = SegMamba(1, 3, [4, 8, 8], conv_op, kernel_sizes, [[1] * len(stem), [1] * len(stem), 2], 2)
    conv = network.encoder.stages[0].downsample
    assert tuple(conv.weight.shape[2:]) == stem
    x = torch.zeros(1, 1, *[9] * len(stem))
    with torch.no_grad():
        silent = conv(x)
        x[(0, 0, *[4] * len(stem))] = 1
        reached = (conv(x) != silent).any(dim=1)[0].nonzero()
    assert silent.shape[2:] == x.shape[2:]
    assert tuple((reached.amax(dim=0) - reached.amin(dim=0) + 1).tolist()) == stem
