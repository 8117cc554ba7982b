"""What is particular to U-Mamba2; what holds for every network is in ``test_networks``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comparison import assert_close
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from nnunetv2_mamba.architectures import UMamba2
from nnunetv2_mamba.architectures.from_plans import network_from_plans

# Its authors' plan for ToothFairy3: 45 structures and the background in CT.
TOOTHFAIRY3 = dict(
    input_channels=1, n_stages=7, features_per_stage=[32, 64, 128, 256, 320, 320, 320], conv_op=nn.Conv3d,
    kernel_sizes=3, strides=[1, 2, 2, 2, 2, 2, [1, 2, 2]], num_classes=46, deep_supervision=True,
)  # fmt: skip
SMALL = dict(
    input_channels=2, n_stages=3, features_per_stage=[4, 8, 16], conv_op=nn.Conv3d,
    kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]], strides=[1, [1, 2, 2], 2], num_classes=3,
)  # fmt: skip
NNUNET = dict(
    conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, dropout_op=None,
    dropout_op_kwargs=None, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
)  # fmt: skip


def on_meta(**options) -> UMamba2:
    with torch.device("meta"):
        return UMamba2(**TOOTHFAIRY3 | options)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_released_networks():
    network = on_meta()
    assert (count(network), count(network.mamba_layer)) == (142_171_820, 642_264)
    assert network.mamba_layer.mamba.ssd.heads == 8


def test_controls_keep_all_but_the_sequence_part():
    """Norm, projections to x and z, and back, RMS norm; the convolution is about as large as what it replaces."""
    mamba, none, conv = (count(on_meta(mixer=mixer).mamba_layer) for mixer in ("mamba2", "none", "conv"))
    assert none == 2 * 320 + 1280 * 320 + 640 + 640 * 320
    assert conv - none == pytest.approx(mamba - none, rel=0.2)
    whole = [count(on_meta(mixer=mixer)) for mixer in ("mamba2", "none", "conv")]
    assert [size - layer for size, layer in zip(whole, (mamba, none, conv), strict=True)] == [141_529_556] * 3


@pytest.mark.parametrize("mixer", ["none", "conv"])
def test_a_control_is_mamba2_with_another_sequence_part(mixer):
    """Mamba-2 whose C is 0, whose D is 1 and whose convolution sees one token is the control that sees one token."""
    twins = [UMamba2(**SMALL, mixer=name).double().eval() for name in ("mamba2", mixer)]
    mamba, control = twins
    with torch.no_grad():
        block = mamba.mamba_layer.mamba
        block.ssd.D.fill_(1)
        block.conv_weight.zero_()[..., -1] = 1
        block.conv_bias.zero_()
        z, x, projected, _ = block.sizes
        block.in_proj.weight[z + x + projected // 2 : z + x + projected] = 0
        block.norm.weight.normal_()
        state = control.state_dict()
        shared = {key: value for key, value in mamba.state_dict().items() if key in state}
        shared["mamba_layer.mamba.in_proj.weight"] = block.in_proj.weight[: z + x]
        assert (
            state.keys() - shared.keys()
            == {
                "none": set(),
                "conv": {"mamba_layer.mamba.conv.conv.weight", "mamba_layer.mamba.conv.conv.bias"},
            }[mixer]
        )
        control.load_state_dict(state | shared)
        if mixer == "conv":
            convolution = control.mamba_layer.mamba.conv.conv
            convolution.bias.zero_()
            convolution.weight.zero_()[(..., *(size // 2 for size in convolution.kernel_size))] = 1
        data = torch.randn(2, 2, 4, 8, 12, dtype=torch.float64)
        assert_close(control(data), mamba(data), 1e-12)


def test_without_its_layer_it_is_nnunets_residual_encoder():
    """Same stages, same numbers of blocks, same initialisation of the same layers."""
    torch.manual_seed(0)
    network = UMamba2(**SMALL, deep_supervision=True, n_blocks_per_stage=[1, 2, 2], n_conv_per_stage_decoder=[2, 1])
    plain = ResidualEncoderUNet(
        **SMALL, **NNUNET, deep_supervision=True, n_blocks_per_stage=[1, 2, 2], n_conv_per_stage_decoder=[2, 1]
    )
    assert count(network) - count(network.mamba_layer) == count(plain)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    plain.encoder.load_state_dict(network.encoder.state_dict())
    plain.decoder.stages.load_state_dict(network.decoder.stages.state_dict())
    plain.decoder.transpconvs.load_state_dict(network.decoder.upsamplings.state_dict())
    plain.decoder.seg_layers.load_state_dict(nn.ModuleList(reversed(network.decoder.seg_layers)).state_dict())
    network.mamba_layer = nn.Identity()
    data = torch.randn(1, 2, 4, 8, 12)
    with torch.no_grad():
        for ours, theirs in zip(network(data), plain(data), strict=True):
            assert_close(ours, theirs, 1e-6)


def test_it_starts_as_nnunets_residual_encoder():
    """He's initialisation for LeakyReLU(0.01), biases 0, and the last norm before a residual sum 0."""
    network = UMamba2(**SMALL | dict(features_per_stage=32))
    for conv in (network.encoder.stages[1].blocks[0].conv1.conv, network.decoder.stages[0].convs[0].conv):
        assert conv.weight.std().item() == pytest.approx((2 / (1 + 1e-4) / conv.weight[0].numel()) ** 0.5, rel=0.05)
        assert not conv.bias.any()
    for stage in network.encoder.stages:
        for block in stage.blocks:
            assert not block.conv2.norm.weight.any() and (block.conv1.norm.weight == 1).all()
    assert network.mamba_layer.mamba.conv_bias.any()


def test_heads_where_the_width_is_no_multiple_of_their_size():
    """The divisor nearest by ratio; the smaller one of two."""
    for width, expand, heads in ((320, 2, 8), (512, 2, 16), (16, 2, 1), (33, 2, 1), (100, 2, 2), (320, 1, 4)):
        network = on_meta(features_per_stage=[8] * 6 + [width], expand=expand)
        assert network.mamba_layer.mamba.ssd.heads == heads, width
    assert on_meta(headdim=40, d_state=64).mamba_layer.mamba.ssd.heads == 16


def blocks(network: UMamba2) -> tuple[list[int], list[int]]:
    encoder, decoder = network.encoder.stages, network.decoder.stages
    return [len(stage.blocks) for stage in encoder], [len(stage.convs) for stage in decoder]


def configuration(network_class_name: str, **plan) -> SimpleNamespace:
    """What ``network_from_plans`` reads of nnU-Net's ConfigurationManager."""
    topology = {key: SMALL[key] for key in ("n_stages", "features_per_stage", "kernel_sizes", "strides")}
    imported = ("conv_op", "norm_op", "dropout_op", "nonlin")
    return SimpleNamespace(
        network_arch_class_name=network_class_name,
        network_arch_init_kwargs=topology | {"conv_op": "torch.nn.modules.conv.Conv3d"} | plan,
        network_arch_init_kwargs_req_import=imported,
        patch_size=[4, 8, 12],
    )


WRITTEN = NNUNET | dict(
    norm_op="torch.nn.modules.instancenorm.InstanceNorm3d", nonlin="torch.nn.LeakyReLU"
)  # as nnU-Net's planners write it
UNETS = "dynamic_network_architectures.architectures.unet"


def test_blocks_of_a_plan_for_a_residual_encoder():
    """Such a plan's, whose network class may be changed to ours; of other plans, those of nnU-Net's planner for it."""
    planned = dict(n_blocks_per_stage=[1, 3, 2], n_conv_per_stage_decoder=[2, 1], **WRITTEN)
    for name in (f"{UNETS}.ResidualEncoderUNet", "nnunetv2_mamba.architectures.UMamba2"):
        network = network_from_plans(UMamba2, configuration(name, **planned), 1, 2, True)
        assert blocks(network) == ([1, 3, 2], [2, 1])
        assert network.topology.features == (4, 8, 16)
    other = planned | dict(norm_op="torch.nn.BatchNorm3d", conv_bias=False)
    network = network_from_plans(UMamba2, configuration(f"{UNETS}.ResidualEncoderUNet", **other), 1, 2, True)
    assert isinstance(network.encoder.stem.convs[0].norm, nn.BatchNorm3d)
    assert network.encoder.stem.convs[0].conv.bias is None
    plain = dict(n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2], **WRITTEN)
    network = network_from_plans(UMamba2, configuration(f"{UNETS}.PlainConvUNet", **plain), 1, 2, True)
    assert blocks(network) == ([1, 3, 4], [1, 1])
    assert blocks(on_meta()) == ([1, 3, 4, 6, 6, 6, 6], [1] * 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(n_blocks_per_stage=[1, 2]), "n_blocks_per_stage has 2 entries"),
        (dict(n_blocks_per_stage=[1, 0, 1]), r"n_blocks_per_stage\[1\] must be a positive integer, got 0"),
        (dict(n_conv_per_stage_decoder=[1, 1, 1]), "n_conv_per_stage_decoder has 3 entries"),
        (dict(n_conv_per_stage_decoder=0), r"n_conv_per_stage_decoder\[0\] must be a positive integer, got 0"),
        (dict(headdim=0), "headdim must be a positive integer, got 0"),
        (dict(mixer="lstm"), "mixer must be one of"),
        (dict(dropout_op_kwargs={"p": 0.2}), "dropout_op_kwargs have no effect without dropout_op; leave them out"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        UMamba2(**SMALL | arguments)


def test_other_scans_and_a_learned_fusion():
    torch.manual_seed(0)
    data = torch.randn(1, 2, 8, 16, 16)
    results = {}
    for scan in ("raster", "hilbert", "tri_oriented+reverse"):
        torch.manual_seed(0)
        network = UMamba2(**SMALL, n_blocks_per_stage=1, scan=scan, fusion="learned").eval()
        with torch.no_grad():
            results[scan] = network(data)
        scanned = network.mamba_layer.mamba.ssd
        assert len(scanned.D) == len(scanned.fusion_weight) == (4 if scan.endswith("reverse") else 1)
    assert not torch.equal(results["raster"], results["hilbert"])
