"""How networks are put together: defaults, what each block is made of, and blocks by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from nnunetv2_mamba.architectures import MedSegMamba, MSDKMamba, SegMamba, UMambaBot, UMambaEnc
from nnunetv2_mamba.architectures.blocks.depthwise_conv import DepthwiseConv, kernel_size_for
from nnunetv2_mamba.architectures.blocks.directional_ssm import DirectionalSSM
from nnunetv2_mamba.architectures.blocks.mamba_layer import MambaLayer
from nnunetv2_mamba.architectures.blocks.mixers.mamba import DirectionalMamba
from nnunetv2_mamba.architectures.blocks.mixers.registry import MIXERS, sequence_mixer
from nnunetv2_mamba.architectures.blocks.plain_conv import PlainConvBlock
from nnunetv2_mamba.architectures.blocks.scan_paths import PATHS
from nnunetv2_mamba.architectures.from_plans import with_options
from nnunetv2_mamba.architectures.medsegmamba.attention import PositionEmbedding, SelfAttention
from nnunetv2_mamba.architectures.medsegmamba.ss3d import SS3D
from nnunetv2_mamba.architectures.medsegmamba.vss3d import VSS3DBlock
from nnunetv2_mamba.architectures.msd_kmamba.kan.basis import BasisConv, rbf_basis
from nnunetv2_mamba.architectures.segmamba.feature_uncertainty import FeatureLevelUncertaintyEstimation
from nnunetv2_mamba.architectures.segmamba.gated_spatial_conv import GatedSpatialConv
from nnunetv2_mamba.architectures.segmamba.tri_oriented_mamba import TriOrientedMambaLayer
from nnunetv2_mamba.architectures.segmamba.unetr_block import UnetrResBlock
from nnunetv2_mamba.architectures.topology import make_topology
from nnunetv2_mamba.architectures.umamba.residual_block import ResidualBlock

GRID = (2, 3, 4)


def tokens(channels: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, math.prod(GRID), channels)


@pytest.mark.parametrize(
    ("network", "widths"),
    [
        (SegMamba, [48, 96, 192, 384, 384, 768]),
        (MedSegMamba, [32, 64, 128, 256, 256, 256]),
        (MSDKMamba, [32, 64, 128, 256, 320, 320]),
        (UMambaBot, [32, 64, 128, 256, 320, 320]),
        (UMambaEnc, [32, 64, 128, 256, 320, 320]),
    ],
)
def test_default_widths(network, widths):
    assert network.default_features(6) == widths


def medsegmamba(bottleneck: str, **options) -> MedSegMamba:
    if bottleneck == "transformer":
        options["position_grid"] = (3, 4, 5)
    with torch.device("meta"):
        return MedSegMamba(
            1, 4, [32, 64, 128, 256], nn.Conv3d, 3, [1, 2, 2, 2], 32, bottleneck=bottleneck, **options
        )  # fmt: skip


@pytest.mark.parametrize(
    ("bottleneck", "mixer", "blocks", "hidden"),
    [
        ("ss3d", SS3D, 9, 1024),
        ("tom", DirectionalMamba, 9, 1024),
        ("transformer", SelfAttention, 8, 1728),
        ("conv", DepthwiseConv, 9, 1024),
        ("none", type(None), 9, 1024),
    ],
)
def test_the_bottleneck_is_the_papers(bottleneck, mixer, blocks, hidden):
    network = medsegmamba(bottleneck)
    assert [type(block.mixer) for block in network.bottleneck.blocks] == [mixer] * blocks
    for block in network.bottleneck.blocks:
        assert block.norm2.normalized_shape == (1024,) and block.drop_path.drop_prob == 0.3
        assert [(layer.in_features, layer.out_features) for layer in (block.mlp[0], block.mlp[3])] == [
            (1024, hidden), (hidden, 1024),
        ]  # fmt: skip
        assert [layer.p for layer in block.mlp if isinstance(layer, nn.Dropout)] == [0.1, 0.1]
    dropouts = {"ss3d": 0.1, "transformer": 0.1}
    if bottleneck in dropouts:
        assert {block.mixer.dropout.p for block in network.bottleneck.blocks} == {dropouts[bottleneck]}
    if bottleneck == "transformer":
        embedding = network.bottleneck.position_embedding
        assert embedding.embedding.shape == (1, 60, 1024) and embedding.dropout.p == 0.1
        assert {block.mixer.heads for block in network.bottleneck.blocks} == {16}
    else:
        assert network.bottleneck.position_embedding is None


def test_state_space_sizes_of_the_bottlenecks():
    def sizes(network):
        block = network.bottleneck.blocks[0].mixer
        return tuple(block.ssm.A_log.shape), block.ssm.dt_rank

    assert sizes(medsegmamba("ss3d")) == ((8, 1024, 64), 64)
    assert sizes(medsegmamba("ss3d", d_state=3, expand=2)) == ((8, 2048, 3), 64)
    assert sizes(medsegmamba("tom")) == ((3, 2048, 16), 64)
    assert sizes(medsegmamba("tom", d_state=3, expand=1, bottleneck_channels=40)) == ((3, 40, 3), 3)


def test_every_block_of_ss3d_has_the_next_orientation():
    mixers = [block.mixer for block in medsegmamba("ss3d").bottleneck.blocks]
    assert [mixer.scan for mixer in mixers] == [f"ss3d_{orientation}" for orientation in (0, 1, 2, 3, 4, 5, 0, 1, 2)]


def test_the_convolutional_bottleneck_is_7_wide():
    conv = medsegmamba("conv").bottleneck.blocks[0].mixer.conv
    assert conv.kernel_size == (7, 7, 7) and conv.padding == (3, 3, 3) and conv.groups == 1024


def test_the_position_grid_is_the_plans_bottleneck():
    plan = {"bottleneck": "transformer", "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]]}
    assert MedSegMamba.patch_options((16, 32, 24), plan) == {"position_grid": [8, 8, 6]}
    assert MedSegMamba.patch_options((16, 32, 24), plan | {"bottleneck": "ss3d"}) == {}
    assert MedSegMamba.patch_options((16, 32, 24), {"strides": plan["strides"]}) == {}


def test_a_plan_of_tabsurfer_is_one_of_its_twins_too():
    """Its position grid stays in the plan where a trainer puts another bottleneck there."""
    plan = {"bottleneck": "transformer", "strides": [[1, 1, 1], [2, 2, 2]], "position_grid": [4, 4, 4]}
    assert with_options(MedSegMamba, plan, {"bottleneck": "transformer"}, (16, 16, 16)) == plan
    for bottleneck in ("ss3d", "tom"):
        assert with_options(MedSegMamba, plan, {"bottleneck": bottleneck}, (16, 16, 16)) == {
            "bottleneck": bottleneck, "strides": plan["strides"],
        }  # fmt: skip


@pytest.mark.parametrize(("conv_op", "dims"), [(nn.Conv2d, 2), (nn.Conv3d, 3)])
def test_skips_of_umamba_at_full_resolution_are_of_volumes_only(conv_op, dims):
    """A change of the first skip connection is seen in 3D, and is not in 2D."""
    network = UMambaBot(1, 3, [4, 8, 8], conv_op, 3, [1, 2, 2], 2).eval()
    widths = [stage[0].conv1.in_channels for stage in network.decoder.stages]
    assert widths == [16, 8 if dims == 3 else 4]
    seen = []
    network.decoder.register_forward_pre_hook(lambda _module, inputs: seen.extend(inputs[0]))
    with torch.no_grad():
        network(torch.randn(1, 1, *[16] * dims))
    assert (seen[0] is None) == (dims == 2) and all(skip is not None for skip in seen[1:])


@pytest.mark.parametrize("heads", [1, 4])
def test_attention_is_torchs(heads):
    attention = SelfAttention(8, nn.Conv3d, heads=heads)
    reference = nn.MultiheadAttention(8, heads, bias=False, batch_first=True)
    reference.load_state_dict({"in_proj_weight": attention.qkv.weight, "out_proj.weight": attention.proj.weight})
    x = tokens(8)
    expected = reference(x, x, x, need_weights=False)[0] + attention.proj.bias
    torch.testing.assert_close(attention(x, GRID), expected)


def test_controls_of_attention():
    """``none``: every token for itself; ``conv``: as many weights as query and key have, 2 x 64 per channel."""
    alone, conv = SelfAttention(64, nn.Conv3d, mixer="none"), SelfAttention(64, nn.Conv3d, mixer="conv")
    x = tokens(64)
    torch.testing.assert_close(alone(x, GRID), functional.linear(alone.qkv(x), alone.proj.weight, alone.proj.bias))
    assert alone.qkv.weight.shape == conv.qkv.weight.shape == (64, 64)
    assert conv.conv.conv.kernel_size == (5, 5, 5)
    torch.testing.assert_close(conv(x, GRID), conv.proj(conv.conv(conv.qkv(x), GRID)))


def test_attention_wants_a_width_of_whole_heads():
    with pytest.raises(ValueError, match="multiple of the 16 attention heads, got 24"):
        SelfAttention(24, nn.Conv3d)


@pytest.mark.parametrize("grid", [(3, 5), (2, 3, 4)])
def test_position_embedding(grid):
    """Added on its own grid; on another one it is interpolated between the centres of voxels."""
    embedding = PositionEmbedding(2, grid)
    assert not embedding.embedding.any()
    values = torch.randn(1, math.prod(grid), 2)
    embedding.embedding.data = values
    x = torch.randn(2, math.prod(grid), 2)
    torch.testing.assert_close(embedding(x, grid), x + values)
    finer = tuple(2 * size for size in grid)
    ramp = torch.stack(torch.meshgrid(*(torch.arange(s) + 0.5 for s in grid), indexing="ij"), -1)[..., :2]
    embedding.embedding.data = ramp.reshape(1, -1, 2)
    found = embedding(torch.zeros(1, math.prod(finer), 2), finer).view(*finer, 2)
    for axis in range(2):
        length = grid[axis]
        expected = ((torch.arange(2 * length) + 0.5) / 2).clamp(0.5, length - 0.5)
        shape = [2 * length if other == axis else 1 for other in range(len(grid))]
        torch.testing.assert_close(found[..., axis], expected.view(shape).expand(finer))


@pytest.mark.parametrize(
    ("weights", "dims", "kernel"),
    [
        (183, 3, (5, 5, 7)), (1, 3, (1, 1, 1)), (2.5, 3, (1, 1, 3)), (27, 3, (3, 3, 3)), (340, 3, (7, 7, 7)),
        (25, 2, (5, 5)), (14, 2, (3, 5)), (9.4, 1, (9,)), (10.4, 1, (11,)), (100, 1, (99,)),
    ],
)  # fmt: skip
def test_kernels_with_about_so_many_weights(weights, dims, kernel):
    assert kernel_size_for(weights, dims) == kernel


@pytest.mark.parametrize("gate", ["add", "multiply"])
def test_gated_spatial_convolution(gate):
    block = GatedSpatialConv(4, nn.Conv3d, (1, 3, 3), gate)

    def layer(part, y):
        conv = part[0]
        return functional.relu(functional.instance_norm(functional.conv3d(y, conv.weight, conv.bias, 1, conv.padding)))

    x = torch.randn(2, 4, 3, 6, 5)
    spatial, pointwise = layer(block.spatial2, layer(block.spatial1, x)), layer(block.pointwise, x)
    gated = spatial + pointwise if gate == "add" else spatial * pointwise
    torch.testing.assert_close(block(x.clone()), x + layer(block.fuse, gated))
    assert block.spatial1[0].kernel_size == (1, 3, 3) and block.pointwise[0].kernel_size == (1, 1, 1)
    with pytest.raises(ValueError, match="gate must be one of add, multiply"):
        GatedSpatialConv(4, nn.Conv3d, (3, 3, 3), "both")


def test_a_tri_oriented_layer_adds_its_input_unless_told_not_to():
    layer = TriOrientedMambaLayer(8, nn.Conv3d)
    x = torch.randn(2, 8, *GRID)
    with torch.no_grad():
        mixed = layer.mamba(layer.norm(x.flatten(2).transpose(1, 2)), GRID).transpose(1, 2).view(x.shape)
        torch.testing.assert_close(layer(x), x + mixed)
        layer.residual = False
        torch.testing.assert_close(layer(x), mixed)
    assert not TriOrientedMambaLayer(8, nn.Conv3d, residual=False).residual


def test_options_of_segmamba_reach_its_blocks():
    with torch.device("meta"):
        network = SegMamba(
            1, 4, [8, 8, 16, 16], nn.Conv3d, 3, [1, 2, 2, 2], 2, n_tom_layers_per_stage=[1, 3, 2],
            gate="multiply", tom_residual=False, mixer="none", fue=True,
        )  # fmt: skip
        plain = SegMamba(1, 3, [8, 8, 16], nn.Conv2d, 3, [1, 2, 2], 2)
    assert [len(stage.tom_layers) for stage in network.encoder.stages] == [1, 3, 2]
    assert {stage.gated_conv.gate for stage in network.encoder.stages} == {"multiply"}
    layers = [layer for stage in network.encoder.stages for layer in stage.tom_layers]
    assert {(layer.residual, type(layer.mamba)) for layer in layers} == {(False, MIXERS["none"])}
    fue = FeatureLevelUncertaintyEstimation
    assert all(isinstance(stage.fue, fue) for stage in network.encoder.stages)
    assert not any(isinstance(stage.fue, fue) for stage in plain.encoder.stages)
    assert [len(stage.tom_layers) for stage in plain.encoder.stages] == [2, 2]
    assert {stage.gated_conv.gate for stage in plain.encoder.stages} == {"add"}
    layers = [layer for stage in plain.encoder.stages for layer in stage.tom_layers]
    assert {(layer.residual, type(layer.mamba)) for layer in layers} == {(True, DirectionalMamba)}
    assert not plain.decoder.deep_supervision and len(plain.decoder.seg_layers) == 1


def test_a_transformer_block():
    """``x + mixer(LN(x))``, then ``x + MLP(LN(x))``."""
    mixer = DepthwiseConv(8, nn.Conv3d, (3, 3, 3))
    block, x = VSS3DBlock(8, mixer, 12, 0.0, 0.0), tokens(8)
    first = x + mixer(functional.layer_norm(x, (8,)), GRID)
    hidden = functional.gelu(block.mlp[0](functional.layer_norm(first, (8,))))
    torch.testing.assert_close(block(x, GRID), first + block.mlp[3](hidden))
    alone = VSS3DBlock(8, None, 12, 0.0, 0.0)
    torch.testing.assert_close(alone(x, GRID), x + alone.mlp(functional.layer_norm(x, (8,))))
    rates = VSS3DBlock(8, None, 12, 0.25, 0.5)
    assert rates.drop_path.drop_prob == 0.5 and rates.mlp[2].p == rates.mlp[4].p == 0.25


@pytest.mark.parametrize("name", ["dropout", "drop_path"])
@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, True, "high"])
def test_rates_that_are_none_are_named(name, rate):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\), got {rate!r}"):
        medsegmamba("ss3d", **{name: rate})


@pytest.mark.parametrize("name", ["n_bottleneck_blocks", "bottleneck_channels", "mlp_channels"])
@pytest.mark.parametrize("size", [-1, 2.5, True, "two"])
def test_sizes_of_the_bottleneck_that_are_none_are_named(name, size):
    """Of -1 blocks a network would have none."""
    with pytest.raises(ValueError, match=rf"{name} must be an? .*integer.*, got {size!r}"):
        medsegmamba("tom", **{name: size})


def test_parameters_per_channel_of_the_state_space_model():
    for directions, d_state, dt_rank in ((1, 3, 2), (3, 16, 4), (8, 5, 1)):
        model = DirectionalSSM(6, directions, d_state, dt_rank)
        count = sum(parameter.numel() for parameter in model.parameters())
        assert count == 6 * DirectionalSSM.weights_per_channel(directions, d_state, dt_rank)


def test_the_state_space_model_starts_as_mambas():
    """Uniform weights of ``nn.Linear``; A = -(1 ... n), D = 1; steps log-uniform in [0.001, 0.1]."""
    model = DirectionalSSM(400, 2, 5, 16)
    for weight, inputs in ((model.x_proj_weight, 400), (model.dt_proj_weight, 16)):
        assert weight.abs().max() <= inputs**-0.5
        assert weight.std().item() == pytest.approx(inputs**-0.5 / 3**0.5, rel=0.05)
        assert abs(weight.mean().item()) < 0.05 * inputs**-0.5
    torch.testing.assert_close(model.A_log.exp(), torch.arange(1.0, 6.0).expand(2, 400, 5))
    assert (model.D == 1).all()
    step = functional.softplus(model.dt_proj_bias.double())
    assert step.min() > 0.99e-3 and step.max() < 0.101
    share = (step.log10() + 3) / 2  # uniform in [0, 1]
    assert share.mean().item() == pytest.approx(0.5, abs=0.05) and share.std().item() == pytest.approx(0.289, abs=0.03)
    rest = DirectionalSSM(400, 3, 5, 16, dt_init="first").dt_proj_bias
    assert (rest[0] < -2).all() and (rest[1:].abs() <= 0.25).all() and (rest[1:].abs() > 0.24).any()
    with pytest.raises(ValueError, match="dt_init must be 'all' or 'first', got 'last'"):
        DirectionalSSM(8, 3, 5, 1, dt_init="last")


def test_sizes_of_a_mamba_block():
    """State 16, causal convolution of width 4, inner width twice the outer one, dt of rank width / 16, rounded up."""
    block = sequence_mixer("mamba", 40, nn.Conv3d)
    assert block.in_proj.weight.shape == (160, 40) and block.out_proj.weight.shape == (40, 80)
    assert block.conv_weight.shape == (3, 80, 4) and block.conv_bias.shape == (3, 80)
    assert block.ssm.A_log.shape == (3, 80, 16) and block.ssm.dt_rank == 3
    assert sequence_mixer("mamba", 32, nn.Conv3d).ssm.dt_rank == 2
    for parameter in (block.conv_weight, block.conv_bias):
        assert parameter.abs().max() <= 0.5 and parameter.abs().max() > 0.48
        assert abs(parameter.mean().item()) < 0.06
    control = sequence_mixer("conv", 40, nn.Conv3d).conv.conv
    # 3 x (3 + 2 x 16 + 4 + 16 + 1) of the scan and 3 x 5 of the causal convolution: 183
    assert control.kernel_size == (5, 5, 7) and control.groups == 80
    with pytest.raises(ValueError, match="scan must be one of raster, bidirectional, tri_oriented"):
        sequence_mixer("mamba", 8, nn.Conv3d, scan="diagonal")


def test_sizes_of_ss3d():
    block = SS3D(40, nn.Conv3d, (1, 3, 3), "ss3d_0")
    assert block.ssm.A_log.shape == (8, 40, 64) and block.ssm.dt_rank == 3
    assert block.in_proj.weight.shape == (40, 40) and block.out_norm.normalized_shape == (40,)
    assert block.depthwise_conv.conv.kernel_size == (1, 3, 3) and block.dropout.p == 0
    # 8 x (3 + 2 x 64 + 4 + 64 + 1) = 1600
    assert SS3D(40, nn.Conv3d, (1, 3, 3), "ss3d_0", mixer="conv").conv.conv.kernel_size == (11, 11, 13)


@pytest.mark.parametrize("mixer", ["none", "conv"])
def test_controls_of_a_mamba_block(mixer):
    """``out_proj(silu(mixed) * silu(z))``, mixed the identity or a depthwise convolution of x."""
    block, x = sequence_mixer(mixer, 8, nn.Conv3d), tokens(8)
    u, z = block.in_proj(x).chunk(2, -1)
    mixed = u if mixer == "none" else block.conv(u, GRID)
    torch.testing.assert_close(block(x, GRID), block.out_proj(functional.silu(mixed) * functional.silu(z)))


def test_channels_as_tokens():
    """Token c is channel c, its entries the voxels; without it a token is a voxel."""
    x = torch.randn(2, 7, 2, 2, 2)
    for grid, sequence in ((GRID[:1] * 3, x.flatten(2)), (None, x.flatten(2).transpose(1, 2))):
        layer = MambaLayer(7, nn.Conv3d, grid)
        length = (7,) if grid else (2, 2, 2)
        mixed = layer.mamba(layer.norm(sequence), length)
        expected = (mixed if grid else mixed.transpose(1, 2)).reshape(x.shape)
        torch.testing.assert_close(layer(x), expected)
        assert layer.channels_as_tokens is (grid is not None)


def convolved(conv: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return functional.conv3d(x, conv.weight, conv.bias, conv.stride, conv.padding)


@pytest.mark.parametrize("widths", [(4, 4), (4, 6)])
def test_unetrs_block(widths):
    block, x = UnetrResBlock(*widths, nn.Conv3d, (1, 3, 3)), torch.randn(2, 4, 3, 5, 6)
    norm = functional.instance_norm
    y = norm(convolved(block.conv2, functional.leaky_relu(norm(convolved(block.conv1, x)), 0.01)))
    shortcut = x if widths[0] == widths[1] else norm(convolved(block.shortcut, x))
    torch.testing.assert_close(block(x), functional.leaky_relu(y + shortcut, 0.01))
    assert block.conv1.bias is None and block.conv1.padding == (0, 1, 1)


@pytest.mark.parametrize(("stride", "projected"), [((1, 2, 2), True), (1, True), (1, False)])
def test_umambas_block(stride, projected):
    block = ResidualBlock(4, 4, nn.Conv3d, (1, 3, 3), stride, projected)
    for parameter in block.parameters():
        nn.init.normal_(parameter)

    def norm(layer, y):
        return functional.instance_norm(y, weight=layer.weight, bias=layer.bias)

    x = torch.randn(2, 4, 3, 6, 8)
    y = functional.leaky_relu(norm(block.norm1, convolved(block.conv1, x)), 0.01)
    shortcut = convolved(block.shortcut, x) if projected else x
    expected = functional.leaky_relu(norm(block.norm2, convolved(block.conv2, y)) + shortcut, 0.01)
    torch.testing.assert_close(block(x.clone()), expected)


def test_nnunets_block():
    block = PlainConvBlock(3, 6, nn.Conv3d, (1, 3, 3))
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    x = y = torch.randn(2, 3, 3, 6, 5)
    for conv, norm in ((block[0], block[1]), (block[3], block[4])):
        y = functional.instance_norm(convolved(conv, y), weight=norm.weight, bias=norm.bias)
        y = functional.leaky_relu(y, 0.01)
    torch.testing.assert_close(block(x), y)
    assert len(block) == 6


def test_shapes_that_a_network_takes():
    flat = make_topology(2, [4, 8], nn.Conv2d, 3, [[1, 1], [1, 2]])
    flat.check_size((1, 2))
    with pytest.raises(ValueError, match="spatial axis 0 of the input has size 0"):
        flat.check_size((0, 2))
    for channels in (1, 3):
        with pytest.raises(ValueError, match=f"input has {channels} channels, the network was built for 2"):
            flat.check_input(torch.empty(1, channels, 4, 4), 2)
    with pytest.raises(ValueError, match=r"kernel_sizes must hold 3 positive integers per stage, got \[3, 3\]"):
        make_topology(2, [4, 8], nn.Conv3d, [[3, 3, 3], [3, 3]], 2)


def test_a_basis_starts_as_a_linear_layer_does():
    """Its SiLU part, of 64 channels, as ``nn.Linear(64, 64)``: uniform between plus and minus 64**-0.5."""
    torch.manual_seed(0)
    largest = BasisConv(64, nn.Conv2d, rbf_basis).conv.weight[:, :64].abs().max().item()
    assert 0.99 / 8 < largest <= 1 / 8


@pytest.mark.parametrize("scan", PATHS)
def test_the_convolution_of_a_control_is_as_large_as_what_it_replaces(scan):
    """Of one axis, where the kernel can have about any number of weights."""
    mamba = sequence_mixer("mamba", 8, nn.Conv1d, scan)
    replaced = sum(p.numel() for name, p in mamba.named_parameters() if not name.startswith(("in_proj", "out_proj")))
    control = sequence_mixer("conv", 8, nn.Conv1d, scan).conv.conv
    assert abs(control.kernel_size[0] + 1 - replaced / 16) <= 2


@pytest.mark.parametrize(
    ("training", "batch", "length", "calls"),
    [(True, 2, 2**19, 2), (False, 2, 2**19, 1), (True, 1, 2**19, 1), (True, 2, 2**10, 1)],
)
def test_when_samples_follow_each_other(training, batch, length, calls, monkeypatch):
    """In training, on a GPU (which fake tensors stand for), where the grid is large."""
    seen = []
    with FakeTensorMode():
        mixer = sequence_mixer("none", 8, nn.Conv1d).train(training)
        mix = mixer.mix
        monkeypatch.setattr(mixer, "mix", lambda tokens, grid: seen.append(len(tokens)) or mix(tokens, grid))
        assert mixer(torch.empty(batch, length, 8), (length,)).shape == (batch, length, 8)
    assert len(seen) == calls and sum(seen) == batch
