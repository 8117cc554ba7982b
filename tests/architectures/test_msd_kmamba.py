"""What holds for MSD-KMamba alone. What it shares with the other networks is in ``test_networks.py``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from comparison import assert_close
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mamba.architectures import MSDKMamba, SegMamba
from nnunetv2_mamba.architectures.from_plans import network_from_plans
from nnunetv2_mamba.architectures.msd_kmamba.network import BSAStage

SMALL = dict(input_channels=2, n_stages=4, features_per_stage=[8, 16, 16, 16], conv_op=nn.Conv3d, kernel_sizes=3)
SMALL |= dict(strides=[1, 2, 2, 2], num_classes=3, n_mamba_layers_per_stage=1)
BRATS = dict(input_channels=4, num_classes=4, conv_op=nn.Conv3d, kernel_sizes=3)
SIX_STAGES = dict(n_stages=6, features_per_stage=MSDKMamba.default_features(6), strides=[1, 2, 2, 2, 2, 2])
SEGMAMBA = dict(n_stages=5, features_per_stage=SegMamba.default_features(5), strides=[1, 2, 2, 2, 2])
SEGMAMBA |= dict(layout="segmamba", kan_wiring="skip")


def build(**options) -> tuple[MSDKMamba, torch.Tensor]:
    return MSDKMamba(**SMALL | options), torch.randn(1, 2, 16, 24, 16)


def stage(**options) -> BSAStage:
    arguments = dict(scans=["bidirectional"], mixer="mamba", kan="rational", kan_wiring="inline")
    arguments |= dict(gate="add") | options
    return BSAStage(nn.Identity(), 8, nn.Conv3d, (3, 3, 3), **arguments)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # nnU-Net's plan for BraTS; its plain U-Net has 31.2 M
        (SIX_STAGES, 40_741_728),
        (SIX_STAGES | dict(kan="mlp"), 40_741_348),  # a rational function has 6 + 8 * 4 coefficients
        (SIX_STAGES | dict(kan="bspline"), 44_809_508),
        (SIX_STAGES | dict(scan="tri_oriented"), 41_126_496),
        # a head per level above the bottleneck and a weight for each of the five
        (SIX_STAGES | dict(deep_supervision=True, fused_head=True), 40_741_728 + (64 + 128 + 256 + 320 + 4) * 4 + 5),
        # SegMamba's layout
        (SEGMAMBA, 67_160_180),
        (SEGMAMBA | dict(scan="tri_oriented"), 67_416_500),
        (SEGMAMBA | dict(scan="tri_oriented", kan="mlp"), 67_416_196),  # the released SegMamba's
    ],
)
def test_parameter_counts(options, expected):
    """The specification's reconstruction has 40.7 M in nnU-Net's layout and 67.16 M in SegMamba's; no difference."""
    with torch.device("meta"):
        network = MSDKMamba(**BRATS | options)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_segmamba_layout_with_segmambas_parts_is_segmamba():
    options = dict(layout="segmamba", kan_wiring="skip", kan="mlp", scan="tri_oriented", gate="multiply")
    network, x = build(**options)
    arguments = {key: value for key, value in SMALL.items() if key != "n_mamba_layers_per_stage"}
    segmamba = SegMamba(**arguments, n_tom_layers_per_stage=1, gate="multiply")
    state = segmamba.state_dict()
    names = {key: key.replace("tom_layers", "mamba_layers").replace("skip_mlp", "kan") for key in state}
    network.load_state_dict({names[key]: value for key, value in state.items()})
    with torch.no_grad():
        assert torch.equal(network(x), segmamba(x))


def test_wirings():
    """Inline: both outputs are the same, and without KAN where gamma is 0. Skip: the trunk does not see the KAN."""
    x = torch.randn(2, 8, 4, 6, 5)
    inline, skip = stage(), stage(kan_wiring="skip")
    skip.load_state_dict({key: value for key, value in inline.state_dict().items() if key != "gamma"})
    with torch.no_grad():
        trunk, kan = skip(x)
        following, to_skip = inline(x)
        assert torch.equal(following, to_skip)
        assert_close(following, trunk + 0.01 * kan, 1e-6)
        nn.init.zeros_(inline.gamma)
        assert torch.equal(inline(x)[0], trunk)


def test_scans_see_before_and_behind():
    x = torch.randn(1, 8, 2, 3, 4)
    tokens = x.flatten(2).transpose(1, 2)
    layer = stage().mamba_layers[0]
    with torch.no_grad():
        before = layer(tokens, (2, 3, 4))
        tokens = tokens.clone()
        tokens[:, 12] += torch.randn(8)
        changed = (layer(tokens, (2, 3, 4)) != before).any(dim=(0, 2))
    assert changed.all()


def test_number_of_directions():
    for scan, directions in (("bidirectional", 2), ("tri_oriented", 3)):
        assert len(stage(scans=[scan]).mamba_layers[0].mamba.ssm.D) == directions


def test_fused_head_is_the_weighted_sum_of_all_heads():
    network, x = build(deep_supervision=True, fused_head=True)
    nn.init.normal_(network.fused_head.weight)
    with torch.no_grad():
        *logits, fused = network(x)
        assert [tuple(z.shape[2:]) for z in logits] == [(16, 24, 16), (8, 12, 8), (4, 6, 4)]
        factors = network.fused_head.weight.exp() / network.fused_head.weight.exp().sum()
        upsampled = [nn.Upsample(scale_factor=2**i, mode="trilinear")(z) for i, z in enumerate(logits)]
    expected = sum(factor * z for factor, z in zip(factors, upsampled, strict=True))
    assert_close(fused, expected, 1e-5)


@pytest.mark.parametrize("kan", ["rational", "bspline", "rbf", "mlp"])
def test_distributed_training_uses_every_parameter(kan, tmp_path):
    """DistributedDataParallel refuses a second pass where a parameter had no gradient in the first."""
    network, x = build(kan=kan, deep_supervision=True, fused_head=True)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        distributed = DistributedDataParallel(network)
        for _ in range(2):
            logits = distributed(x)
            sum(z.square().mean() for z in logits).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert len(logits) == 4
    for key, parameter in network.named_parameters():
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), f"{key} has a gradient of 0"


def test_prediction_takes_a_checkpoint_trained_with_a_fused_head():
    trained, x = build(deep_supervision=True, fused_head=True)
    predicting, _ = build(fused_head=True)
    predicting.load_state_dict(trained.state_dict())
    trained.decoder.deep_supervision = False
    with torch.no_grad():
        assert torch.equal(predicting(x), trained(x))
    with pytest.raises(RuntimeError, match="Unexpected key"):
        predicting.load_state_dict(trained.state_dict() | {"fused_head.bias": torch.zeros(1)})


def flops(network: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def test_prediction_costs_the_same_with_and_without_self_distillation():
    """Only backbone and head at full resolution run."""
    plain, x = build()
    trained, _ = build(deep_supervision=True, fused_head=True)
    training = flops(trained, x)
    trained.decoder.deep_supervision = False
    assert flops(trained, x) == flops(plain, x) < training
    lower_heads = 2 * 3 * 16 * (8 * 12 * 8 + 4 * 6 * 4)
    assert training - flops(plain, x) == lower_heads


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kan", ["rational", "bspline", "rbf"])
def test_autocast_is_finite(kan, dtype):
    smaller = dict(n_stages=3, features_per_stage=[8, 16, 16], strides=[1, 2, 2])
    network, _ = build(kan=kan, deep_supervision=True, fused_head=True, **smaller)
    x = torch.randn(1, 2, 12, 12, 12)  # torch's bf16 convolution is wrong on a CPU where 2 slices meet a kernel of 3
    with torch.autocast("cpu", dtype=dtype):
        logits = network(x)
    assert all(z.isfinite().all() for z in logits)
    sum(z.float().square().mean() for z in logits).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


@pytest.mark.slow
def test_compiles_as_one_graph_and_exports():
    """With the fused head; the scans, which take long to trace, are in the tests of the trainers and of the ops."""
    smaller = dict(n_stages=3, features_per_stage=8, strides=[1, 2, 2], mixer="none")
    network, x = build(**smaller, deep_supervision=True, fused_head=True)
    logits = network(x)
    gradients = torch.autograd.grad(sum(z.square().mean() for z in logits), network.encoder.stages[0].kan.parameters())
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)(x)
    for actual, expected in zip(compiled, logits, strict=True):
        assert_close(actual, expected, 1e-5)
    loss = sum(z.square().mean() for z in compiled)
    for actual, expected in zip(
        torch.autograd.grad(loss, network.encoder.stages[0].kan.parameters()), gradients, strict=True
    ):
        assert_close(actual, expected, 1e-4)
    network.decoder.deep_supervision = False
    with torch.no_grad():
        exported = torch.export.export(network, (x,), strict=False)
    assert_close(exported.module()(x), logits[0], 1e-5)


def test_convolutions_of_nnunet_start_as_nnunets():
    """He's initialisation for LeakyReLU(0.01), biases 0."""
    network, _ = build(features_per_stage=[32] * 4)
    for conv in (network.encoder.stem[3], network.decoder.stages[-1][3]):
        assert conv.weight.std().item() == pytest.approx((2 / (1 + 1e-4) / (32 * 27)) ** 0.5, rel=0.05)
        assert not conv.bias.any()


def test_weight_decay_spares_the_rational_functions():
    network, _ = build()
    marked = {key.split(".")[-1] for key, p in network.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert {"numerator", "denominator"} <= marked


def test_widths_come_from_the_plan():
    configuration = SimpleNamespace(
        network_arch_class_name="dynamic_network_architectures.architectures.unet.PlainConvUNet",
        network_arch_init_kwargs=dict(
            n_stages=3,
            features_per_stage=[16, 32, 48],
            conv_op="torch.nn.modules.conv.Conv2d",
            kernel_sizes=[[3, 3]] * 3,
            strides=[[1, 1], [2, 2], [2, 2]],
            n_conv_per_stage=[2, 2, 2],
        ),
        network_arch_init_kwargs_req_import=("conv_op",),
        patch_size=(16, 16),
    )
    network = network_from_plans(MSDKMamba, configuration, 1, 2, True, kan="mlp")
    assert network.topology.features == (16, 32, 48)
    assert [z.shape[1:] for z in network(torch.randn(1, 1, 16, 16))] == [(2, 16, 16), (2, 8, 8)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scan="diagonal"), "scan must be one of raster, bidirectional, tri_oriented, .*; got 'diagonal'"),
        (dict(kan="fourier"), "kan must be one of"),
        (dict(kan_wiring="both"), "kan_wiring must be one of inline, skip"),
        (dict(layout="unetr"), "layout must be one of nnunet, segmamba"),
        (dict(gate="max"), "gate must be one of"),
        (dict(mixer="lstm"), "mixer must be one of"),
        (dict(n_mamba_layers_per_stage=[1, 1]), "n_mamba_layers_per_stage has 2 entries"),
        (dict(features_per_stage=[8, 12, 16, 16]), "multiples of 8"),
        (dict(strides=[2, 2, 2, 2]), r"strides\[0\]"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_input_that_does_not_fit_is_named():
    network, _ = build()
    with pytest.raises(ValueError, match="axis 1 .* size 12.* multiple of 8"):
        network(torch.randn(1, 2, 16, 12, 16))
    with pytest.raises(ValueError, match="one voxel"):
        network(torch.randn(1, 2, 8, 8, 8))
