"""What is particular to U-Mamba; what holds for every network is in ``test_networks``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nnunetv2_mamba.architectures import MedSegMamba, UMambaBot, UMambaEnc
from nnunetv2_mamba.architectures.blocks.mamba_layer import MambaLayer
from nnunetv2_mamba.architectures.blocks.mixers import MIXERS
from nnunetv2_mamba.architectures.from_plans import network_from_plans

NNUNET = dict(n_stages=6, conv_op=nn.Conv3d, kernel_sizes=3, strides=[1, 2, 2, 2, 2, 2])
SMALL = dict(
    input_channels=1,
    n_stages=3,
    features_per_stage=[4, 8, 48],
    conv_op=nn.Conv3d,
    kernel_sizes=3,
    strides=[1, 2, 2],
    num_classes=2,
)


def parameters(network_class: type[nn.Module], channels: int = 1, classes: int = 3, **options) -> int:
    with torch.device("meta"):
        network = network_class(
            input_channels=channels,
            num_classes=classes,
            features_per_stage=network_class.default_features(6),
            deep_supervision=True,
            **NNUNET,
            **options,
        )
    return sum(parameter.numel() for parameter in network.parameters())


def test_parameter_counts_are_the_released_networks():
    assert parameters(UMambaBot) == 42_121_199
    assert parameters(UMambaBot, channels=4, classes=4) == 42_124_692
    assert parameters(UMambaEnc, patch_size=(128, 128, 128)) == 42_751_727
    assert parameters(UMambaEnc, channels=4, classes=4, patch_size=(128, 128, 128)) == 42_755_220


def test_convolutions_start_as_nnunets():
    """He's initialisation for LeakyReLU(0.01), biases 0; Mamba keeps its own."""
    network = UMambaBot(**SMALL | dict(features_per_stage=32))
    for conv in (network.encoder.stages[1][0].conv1, network.decoder.stages[0][0].conv1):
        fan_in = conv.weight[0].numel()
        assert conv.weight.std().item() == pytest.approx((2 / (1 + 1e-4) / fan_in) ** 0.5, rel=0.05)
        assert not conv.bias.any()
    assert network.encoder.mamba_layers[-1].mamba.conv_bias.any()


@pytest.mark.parametrize(("variant", "options"), [(UMambaBot, {}), (UMambaEnc, {"patch_size": (128, 128, 128)})])
def test_conv_twin_has_about_as_many_parameters(variant, options):
    """Compared are the weights of the Mamba layers, which are few among all."""
    mamba, none, conv = (parameters(variant, mixer=mixer, **options) for mixer in ("mamba", "none", "conv"))
    assert none < mamba
    assert conv - none == pytest.approx(mamba - none, rel=0.2)


def test_where_mamba_layers_are_and_what_their_tokens_are():
    def layers(conv_op, n_stages, patch_size):
        with torch.device("meta"):
            network = UMambaEnc(
                1, n_stages, [4, 8, 16, 32][:n_stages], conv_op, 3, [1, 2, 2, 2][:n_stages], 2, patch_size=patch_size
            )
        tokens = {True: "channels", False: "voxels"}
        return [
            tokens[layer.channels_as_tokens] if isinstance(layer, MambaLayer) else None
            for layer in network.encoder.mamba_layers
        ]

    assert layers(nn.Conv3d, 4, (16, 16, 16)) == ["voxels", "voxels", "voxels", "channels"]
    assert layers(nn.Conv3d, 4, (32, 32, 32)) == ["voxels", "voxels", "voxels", "voxels"]
    assert layers(nn.Conv3d, 4, (32, 16, 32)) == ["voxels", "voxels", "voxels", "channels"]  # 32 voxels, 32 channels
    assert layers(nn.Conv2d, 4, (32, 32)) == [None, "voxels", None, "channels"]
    assert layers(nn.Conv2d, 3, (32, 32)) == ["voxels", None, "voxels"]


def test_numbers_of_blocks():
    def blocks(n_stages):
        strides = [1] + [2] * (n_stages - 1)
        with torch.device("meta"):
            network = UMambaBot(1, n_stages, 8, nn.Conv2d, 3, strides, 2)
        return [len(network.encoder.stem)], *([len(s) for s in p.stages] for p in (network.encoder, network.decoder))

    assert blocks(6) == ([2], [2, 2, 2, 1, 1, 1], [2, 2, 2, 1, 1])
    assert blocks(4) == ([2], [2, 2, 1, 1], [2, 2, 1])
    assert blocks(3) == ([2], [2, 2, 1], [2, 2])


def test_input_of_another_size_is_refused():
    network = UMambaEnc(**SMALL, patch_size=(16, 16, 8))
    assert network(torch.randn(1, 1, 16, 16, 8)).shape == (1, 2, 16, 16, 8)
    for size in ((16, 16, 16), (8, 16, 16)):  # the second has as many voxels
        with pytest.raises(ValueError, match=r"built for \(16, 16, 8\).*belong to one patch size"):
            network(torch.randn(1, 1, *size))


@pytest.mark.parametrize(
    ("patch_size", "widths"),
    [((16, 16, 4), "16 wide in them and 32 wide here"), ((32, 32, 32), "48 wide in them and 32 wide here")],
)
def test_weights_of_another_patch_size_are_refused(patch_size, widths):
    """Fewer voxels at the bottleneck, and so many that its tokens are the voxels."""
    network = UMambaEnc(**SMALL, patch_size=(16, 16, 8))
    for strict in (True, False):
        with pytest.raises(ValueError, match=rf"another patch size.*stage 2.*{widths}.*\(16, 16, 8\).*\(4, 4, 2\)"):
            network.load_state_dict(UMambaEnc(**SMALL, patch_size=patch_size).state_dict(), strict=strict)
    wrapped = nn.ModuleDict({"network": network})
    with pytest.raises(ValueError, match="another patch size"):
        other = UMambaEnc(**SMALL, patch_size=patch_size)
        wrapped.load_state_dict({f"network.{key}": value for key, value in other.state_dict().items()})


def test_bot_fits_any_patch():
    small, large = torch.randn(1, 1, 8, 8, 16), torch.randn(1, 1, 16, 12, 8)
    network = UMambaBot(**SMALL)
    for x in (small, large):
        assert network(x).shape == (1, 2, *x.shape[2:])


@pytest.mark.parametrize("channel_grid", [None, (4, 3, 2)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_mamba_layer_computes_in_full_precision(channel_grid, dtype):
    layer = MambaLayer(32, nn.Conv3d, channel_grid)
    seen = []
    layer.mamba.in_proj.register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    full = torch.promote_types(dtype, torch.float32)
    layer.to(full)
    x = (8 * torch.randn(2, 32, 4, 3, 2)).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert seen == [full]
    assert y.dtype == dtype
    with torch.no_grad():
        assert torch.equal(y, layer(x.to(full)).to(dtype))


def configuration(network_class_name: str, **plan) -> SimpleNamespace:
    """What ``network_from_plans`` reads of nnU-Net's ConfigurationManager."""
    topology = dict(
        n_stages=3,
        conv_op="torch.nn.modules.conv.Conv3d",
        kernel_sizes=[[3] * 3] * 3,
        strides=[[1] * 3, [2] * 3, [2] * 3],
    )
    return SimpleNamespace(
        network_arch_class_name=network_class_name,
        network_arch_init_kwargs=topology | plan,
        network_arch_init_kwargs_req_import=("conv_op",),
        patch_size=[16, 16, 8],
    )


def test_plan_gives_widths_and_patch_size():
    unet = configuration(
        "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        features_per_stage=[4, 8, 48],
        n_conv_per_stage=2,
    )
    network = network_from_plans(UMambaEnc, unet, 1, 2, True)
    assert network.topology.features == (4, 8, 48)
    assert network.patch_size == (16, 16, 8) and network.bound_to_patch_size
    assert network_from_plans(UMambaBot, unet, 1, 2, True).topology.features == (4, 8, 48)
    assert network_from_plans(MedSegMamba, unet, 1, 2, True, bottleneck_channels=16).topology.features == (32, 64, 128)
    own = configuration("nnunetv2_mamba.architectures.UMambaEnc", features_per_stage=[4, 8, 16], mixer="none")
    network = network_from_plans(UMambaEnc, own, 1, 2, True)
    assert network.topology.features == (4, 8, 16) and type(network.encoder.mamba_layers[0].mamba) is MIXERS["none"]
