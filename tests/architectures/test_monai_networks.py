"""Networks made of MONAI's blocks compute what MONAI's do, are as large as published, and take what plans they can."""

from __future__ import annotations

import importlib
from types import SimpleNamespace

import pytest
import torch
from monai.networks.layers import DropPath
from registered_networks import NETWORKS, OF_MONAI, small_arguments
from test_networks import build
from torch import nn

from nnunetv2_mamba.architectures.from_plans import network_from_plans, stage_arguments, with_options
from nnunetv2_mamba.packaging import network_export

HEADS = {"MedNeXt": "out_0.conv_out", "SegResNet": "conv_final.2.conv", "SegResNetDS": "up_layers.1.head"}


def plan_of(strides: list[list[int]]) -> dict:
    """The stages of a U-Net's plan."""
    kernels = [[3] * len(strides[0])] * len(strides)
    conv_op = nn.Conv2d if len(strides[0]) == 2 else nn.Conv3d
    return dict(n_stages=len(strides), conv_op=conv_op, kernel_sizes=kernels, strides=strides)


def isotropic(n_stages: int, dims: int = 3) -> dict:
    return plan_of([[1] * dims] + [[2] * dims] * (n_stages - 1))


ANISOTROPIC = plan_of([[1, 1, 1], [1, 2, 2], [2, 2, 2]])


@pytest.mark.parametrize(
    ("name", "plan", "patch"),
    [
        *((name, isotropic(3), (16, 32, 16)) for name in OF_MONAI if name not in ("MedNeXtM", "MedNeXtL")),
        *((name, isotropic(3, 2), (32, 64)) for name in OF_MONAI if name not in ("MedNeXtM", "MedNeXtL")),
        ("SegResNetDS", ANISOTROPIC, (6, 16, 8)),
    ],
)
def test_computes_what_monai_computes(monkeypatch, name, plan, patch):
    """With the very same blocks, whose weights are therefore the same; the head is copied."""
    module = importlib.import_module("monai.networks.nets")
    theirs = getattr(module, NETWORKS[name].network_class.__name__)
    made = []

    def build(**arguments):
        made.append(theirs(**arguments))
        return made[-1]

    monkeypatch.setattr(module, theirs.__name__, build)
    if name == "SwinUNETR" and len(patch) == 3:
        patch = (32, 64, 32)
    arguments = small_arguments(name, {**plan, "input_channels": 2, "num_classes": 3, "features_per_stage": 8}, patch)
    network = NETWORKS[name].network_class(**arguments).double().eval()
    (net,) = made
    net = net.double().eval()
    head = net.get_submodule(HEADS.get(theirs.__name__, "out.conv.conv"))
    with torch.no_grad():
        ours = network.decoder.seg_layers[0]
        head.weight.copy_(ours.weight.transpose(0, 1) if theirs.__name__ == "MedNeXt" else ours.weight)
        head.bias.copy_(ours.bias)
        x = torch.randn(2, 2, *patch, dtype=torch.float64)
        torch.testing.assert_close(network(x), net(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "expected", "published"),
    [
        ("UNETR", 92_784_046, 92.58),
        ("SwinUNETR", 62_187_296, 62.19),
        ("MedNeXt", 5_551_310, 5.6),
        ("MedNeXtB", 10_511_246, 10.5),
        ("MedNeXtM", 17_533_902, 17.6),
        ("MedNeXtL", 61_727_150, 61.8),
        ("SegResNet", 18_796_398, None),
        ("SegResNetDS", 87_163_694, None),
    ],
)
def test_parameter_counts(name, expected, published):
    """For 1 channel, 14 classes, patches of 96 voxels; the papers' numbers are in millions. The constructor makes the
    network on the meta device, as a check of a stranger's plan does."""
    network = NETWORKS[name]
    arguments = stage_arguments(network.network_class, isotropic(6))
    arguments = with_options(network.network_class, arguments, network.options, (96, 96, 96))
    with torch.device("meta"):
        built = network.network_class(input_channels=1, num_classes=14, **arguments)
    parameters = sum(parameter.numel() for parameter in built.parameters())
    assert parameters == expected
    assert published is None or parameters == pytest.approx(1e6 * published, rel=0.01)


def test_the_papers_numbers_that_no_parameter_counts():
    """Heads of UNETR's attention, and the dropout of SegResNet."""
    with torch.device("meta"):
        unetr = NETWORKS["UNETR"].network_class(
            input_channels=1,
            num_classes=2,
            **isotropic(5),
            features_per_stage=[16, 32, 64, 128, 768],
            patch_size=[16] * 3,
        )
        segresnet = NETWORKS["SegResNet"].network_class(
            input_channels=1, num_classes=2, **isotropic(4), features_per_stage=[8, 16, 32, 64]
        )
    assert unetr.encoder.stages[0][0].attn.num_heads == 12
    assert segresnet.encoder.stem[1].p == 0.2


def test_stochastic_depth_of_swin_unetr_rises_to_the_rate_that_is_given():
    planned = {**isotropic(6), "input_channels": 1, "num_classes": 2}
    arguments = small_arguments("SwinUNETR", planned, (32, 32, 32))
    network = NETWORKS["SwinUNETR"].network_class(**{**arguments, "depths": [1, 1, 1, 1], "drop_path": 0.3})
    rates = [module.drop_prob for module in network.modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx([0.1, 0.2, 0.3])  # the first block is never dropped


@pytest.mark.parametrize(("kernels", "own"), [([5, 5, 5], 5), ([3, 3, 3], 3), ([5, 3, 5], 3)])
def test_mednext_has_large_kernels_where_the_plan_has_no_other(kernels, own):
    network_class = NETWORKS["MedNeXt"].network_class
    _, found = network_class.stages([[1] * 3, [2] * 3, [2] * 3], [[kernel] * 3 for kernel in kernels])
    assert found == [[own] * 3] * 3


@pytest.mark.parametrize(
    ("name", "strides", "own"),
    [
        ("UNETR", [[1, 1, 1], [1, 2, 2]], [[1, 1, 1], *[[2, 2, 2]] * 4]),
        ("SwinUNETR", [[1, 1]], [[1, 1], *[[2, 2]] * 5]),
        ("MedNeXt", [[1, 1, 1], [1, 2, 2], [2, 2, 2]], [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        ("MedNeXt", [[1, 1, 1], *[[2, 2, 2]] * 6], [[1, 1, 1], *[[2, 2, 2]] * 4]),
        ("SegResNet", [[1, 1, 1], *[[2, 2, 2]] * 6], [[1, 1, 1], *[[2, 2, 2]] * 3]),
        ("SegResNetDS", [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]], [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2]]),
        # an axis that nnU-Net stops to halve; and one that starts between the others
        ("SegResNetDS", [[1, 1, 1], [2, 2, 2], [1, 2, 2]], [[1, 1, 1], [2, 2, 2], [2, 2, 2]]),
        (
            "SegResNetDS",
            [[1, 1, 1], [1, 1, 2], [1, 2, 2], [2, 2, 2]],
            [[1, 1, 1], [1, 2, 2], [1, 1, 2], [2, 2, 2]],
        ),
        ("SegResNetDS", [[1, 1, 1], [1, 2, 2], [1, 2, 2]], [[1, 1, 1], [1, 2, 2], [1, 2, 2]]),
    ],
)
def test_stages_that_they_make_of_a_plans(name, strides, own):
    network_class = NETWORKS[name].network_class
    stages = network_class.stages(strides, [[3] * len(strides[0])] * len(strides))
    assert [list(stage) for stage in stages[0]] == own
    again = network_class.stages(*stages)
    assert [[list(stage) for stage in each] for each in again] == [[list(stage) for stage in each] for each in stages]


def configuration(plan: dict, patch: tuple[int, ...], network_class: str = "PlainConvUNet") -> SimpleNamespace:
    """What nnU-Net's ConfigurationManager has of a plan."""
    return SimpleNamespace(
        network_arch_init_kwargs={**plan, "features_per_stage": [32] * plan["n_stages"]},
        network_arch_class_name=network_class,
        network_arch_init_kwargs_req_import=["conv_op"],
        patch_size=patch,
    )


@pytest.mark.parametrize(
    ("name", "plan", "patch", "message"),
    [
        (
            "SwinUNETR",
            isotropic(4),
            (40, 56, 40),
            "patches of 40 x 56 x 40 .* of 32 x 32 x 32.* patches of 64 x 64 x 64",
        ),
        ("SwinUNETR", isotropic(4), (32, 32, 32), "patches of 32 x 32 x 32 .* larger.* patches of 64 x 32 x 32"),
        ("UNETR", isotropic(4), (40, 48, 40), "multiples of 16 x 16 x 16, and larger; .* patches of 48 x 48 x 48"),
        ("MedSegMamba", isotropic(3), (6, 8, 8), "multiples of 4 x 4 x 4; plan patches of 8 x 8 x 8"),
        ("MedNeXt", ANISOTROPIC, (6, 16, 16), "multiples of 4 x 4 x 4.* patches of 8 x 16 x 16"),
    ],
)
def test_a_patch_that_does_not_fit_is_refused_with_the_one_to_plan(name, plan, patch, message):
    with pytest.raises(ValueError, match=f"{name} does not take this plan's .*{message}"):
        network_from_plans(NETWORKS[name].network_class, configuration(plan, patch), 1, 2, False)


def test_plans_of_a_unet_are_taken():
    """With the network's own stages and widths; those of its own plans stay."""
    small = {**NETWORKS["MedNeXt"].small, "features_per_stage": [4, 8, 16, 32, 64]}
    network = network_from_plans(
        NETWORKS["MedNeXt"].network_class, configuration(isotropic(6), (32, 64, 32)), 1, 2, False, **small
    )
    assert network.topology.n_stages == 5
    with torch.no_grad():
        assert network(torch.randn(1, 1, 32, 64, 32)).shape == (1, 2, 32, 64, 32)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("MedNeXt", dict(size="XL"), "size must be one of S, B, M, L, got 'XL'"),
        ("MedNeXt", dict(features_per_stage=[4, 8, 8]), r"must follow the first: \[4, 8, 16\], got \[4, 8, 8\]"),
        ("MedNeXt", dict(strides=[1, [1, 2, 2], 2]), "strides .* are not those of MedNeXt"),
        ("SegResNet", dict(kernel_sizes=5), "kernel_sizes .* are not those of SegResNet"),
        ("SegResNet", dict(features_per_stage=[4, 8, 16]), "multiples of 8, got 4"),
        ("SegResNet", dict(n_blocks_per_stage=[1, 2]), "n_blocks_per_stage has 2 entries"),
        ("SegResNetDS", dict(n_blocks_per_stage=[1, 2, 0]), r"n_blocks_per_stage\[2\] must be a positive"),
        ("SwinUNETR", dict(features_per_stage=[8, 8, 16, 32, 64, 128]), "multiple of 12, got 8"),
        ("SwinUNETR", dict(depths=[2, 2]), "depths has 2 entries, needs one for each of 4 stages"),
        ("SwinUNETR", dict(num_heads=[5, 5, 5, 5]), "num_heads"),
        ("SegResNet", dict(dropout=True), r"dropout must be in \[0, 1\), got True"),
        ("SwinUNETR", dict(drop_path="high"), r"drop_path must be in \[0, 1\), got 'high'"),
        ("UNETR", dict(num_heads=2.0), "num_heads must be a positive integer, got 2.0"),
        ("SwinUNETR", dict(window_size=0), "window_size must be a positive integer, got 0"),
        ("UNETR", dict(mlp_ratio=0), "mlp_ratio must be a positive integer, got 0"),
        ("UNETR", dict(num_heads=5), "num_heads must divide the transformer's width, 24; got 5"),
        ("UNETR", dict(patch_size=(16, 24, 16)), "axis 1 .* size 24.* multiple of 16"),
    ],
)
def test_arguments_that_do_not_fit_are_named(name, arguments, message):
    planned = {**isotropic(3), "input_channels": 1, "num_classes": 2, "features_per_stage": 8}
    with pytest.raises(ValueError, match=message):
        NETWORKS[name].network_class(**{**small_arguments(name, planned, (16, 16, 16)), **arguments})


@pytest.mark.slow
@pytest.mark.parametrize("kind", network_export.ENDINGS)
@pytest.mark.parametrize("shape", ["cubic", "2D"])
@pytest.mark.parametrize("name", OF_MONAI)
def test_is_exported(monkeypatch, tmp_path, name, shape, kind):
    """The command compares the file with the network, and keeps it only if it computes the same."""
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    network, x = build(name, shape)
    monkeypatch.setattr(network_export, "_load", lambda *_: (network.eval(), x[:1], name))
    file = tmp_path / f"network{network_export.ENDINGS[kind]}"
    assert f"{name}, input {tuple(x[:1].shape)}" in network_export.export(tmp_path, file, kind)
    assert file.stat().st_size
