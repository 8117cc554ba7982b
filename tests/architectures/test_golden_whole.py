"""As test_golden, with the larger files that are not part of this repository: wider networks, and every module alone.

The released code computed these files in float32, we compute in float64: what separates the two is the files' own
rounding (1.3e-5 for umamba_enc.pt, below 2e-6 for the others), whatever the build of torch.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from comparison import assert_close
from mamba2_written_out import mamba2
from shared_files import SHARED, why_absent
from torch import nn

from nnunetv2_mamba.architectures.blocks.decoder import Decoder
from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer
from nnunetv2_mamba.architectures.medsegmamba import released_weights as medsegmamba
from nnunetv2_mamba.architectures.medsegmamba.group_norm_conv import ConvBlock, ResConvBlock, UpConv
from nnunetv2_mamba.architectures.medsegmamba.ss3d import SS3D
from nnunetv2_mamba.architectures.medsegmamba.vss3d import VSS3DBlock
from nnunetv2_mamba.architectures.released_weights import build_from_released
from nnunetv2_mamba.architectures.released_weights.mamba import MAMBA2, stack_directions
from nnunetv2_mamba.architectures.released_weights.state import rename_modules
from nnunetv2_mamba.architectures.segmamba import released_weights as segmamba
from nnunetv2_mamba.architectures.segmamba.gated_spatial_conv import GatedSpatialConv
from nnunetv2_mamba.architectures.segmamba.tri_oriented_mamba import TriOrientedMambaLayer
from nnunetv2_mamba.architectures.segmamba.unetr_block import UnetrResBlock

KERNEL = (3, 3, 3)
ABSENT = why_absent("golden")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(ABSENT), reason=str(ABSENT))]
assert_close = partial(assert_close, relative=5e-5)


@pytest.fixture(autouse=True)
def float64():
    """Networks are made, and files read, as float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def golden(name: str) -> dict:
    return as_float64(torch.load(SHARED / "golden" / name, weights_only=True))


def as_float64(value):
    if isinstance(value, dict):
        return {key: as_float64(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_float64(item) for item in value]
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize(
    ("file", "output"),
    [
        ("segmamba_true_depth.pt", "output"),
        ("medsegmamba_size4.pt", "logits"),
        ("medsegmamba_tabsurfer_bottleneck.pt", "logits"),
    ],
)
def test_network(file, output):
    reference = golden(file)
    network = build_from_released(reference["state_dict"]).eval()
    with torch.no_grad():
        logits = network(reference["input"])
    assert_close(logits, reference[output])
    if output == "logits":
        assert_close(logits.softmax(1), reference["output"])


@pytest.mark.parametrize("file", ["umamba_bot.pt", "umamba_bot_2d.pt", "umamba_enc.pt"])
def test_umamba(file):
    """All heads, and the features around the Mamba layers."""
    reference = golden(file)
    config = reference["config"]
    network = build_from_released(
        reference["state_dict"], strides=config["strides"], patch_size=config.get("input_size")
    ).eval()
    seen = {}
    modules = {"encoder.stem": network.encoder.stem, "decoder.stages.2": network.decoder.stages[2]}
    for i, layer in enumerate(network.encoder.mamba_layers):
        modules |= {f"encoder.stages.{i}": network.encoder.stages[i], f"encoder.mamba_layers.{i}": layer}
    modules["mamba_layer"] = network.encoder.mamba_layers[-1]
    names = modules.keys() & reference["intermediates"].keys()
    assert len(names) > 4
    for name in names:
        modules[name].register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        logits = network(reference["input"])
    for ours, theirs in zip(logits, reference["output"], strict=True):
        assert_close(ours, theirs)
    for name in names:
        assert_close(seen[name], reference["intermediates"][name])


@pytest.mark.parametrize("file", ["umamba2_bot.pt", "umamba2_bot_2d.pt"])
def test_umamba2(file):
    """All heads, and the features before and after the Mamba layer; theirs in float32 but for the scan."""
    reference = golden(file)
    network = build_from_released(reference["state_dict"], strides=reference["config"]["strides"]).eval()
    seen = {}
    network.mamba_layer.register_forward_hook(lambda _m, inputs, out: seen.update(mamba_in=inputs[0], mamba_out=out))
    with torch.no_grad():
        logits = network(reference["input"])
    for ours, theirs in zip(logits, reference["output"], strict=True):
        assert_close(ours, theirs, relative=1e-5)
    for name, features in reference["intermediates"].items():
        assert_close(seen[name], features, relative=1e-5)


def test_intermediate_features_of_segmamba():
    reference = golden("segmamba_true_depth.pt")
    network = build_from_released(reference["state_dict"]).eval()
    seen = {}
    stage = network.encoder.stages[0]
    for name, module in {
        "vit.downsample_layers.0": stage.downsample,
        "vit.gscs.0": stage.gated_conv,
        "vit.stages.0": stage.tom_layers,
        "vit.mlps.0": stage.skip_mlp,
        "encoder5": network.encoder.skip_blocks[-1],
        "decoder5": network.decoder.stages[0],
    }.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        network(reference["input"])
    for name, features in seen.items():
        assert_close(features, reference["intermediates"][name])


def load(module: nn.Module, state: dict, modules: dict[str, str]) -> nn.Module:
    module.load_state_dict({key.lstrip("."): value for key, value in rename_modules(state, modules).items()})
    return module.double().eval()


def test_tri_oriented_mamba():
    reference = golden("segmamba_modules.pt")["modules"]
    for name, grid in (("mamba_v3", (4, 3, 5)), ("MambaLayer", None)):
        state = dict(reference[name]["state_dict"])
        stack_directions(state, "" if grid else "mamba.", segmamba.TOM_DIRECTIONS)
        with torch.no_grad():
            if grid:
                mamba = load(sequence_mixer("mamba", 24, nn.Conv3d), state, {})
                output = mamba(reference[name]["input"], grid)
            else:
                output = load(TriOrientedMambaLayer(24, nn.Conv3d), state, {})(reference[name]["input"])
        assert_close(output, reference[name]["output"])


def test_official_mamba1_block_is_the_unidirectional_case():
    reference = golden("mamba1_layer.pt")
    state = dict(reference["state_dict"])
    mamba = sequence_mixer("mamba", 24, nn.Conv3d, scan="unidirectional")
    stack_directions(state, "")
    mamba.load_state_dict(state)
    with torch.no_grad():
        assert_close(mamba(reference["input"], (37, 1, 1)), reference["output"])


def test_official_mamba2_block_is_the_unidirectional_case():
    reference = golden("mamba2_layer.pt")
    state = dict(reference["state_dict"])
    with torch.no_grad():
        assert_close(mamba2(state, reference["input"]), reference["output"], relative=1e-6)
    mixer = sequence_mixer("mamba2", 48, nn.Conv3d, scan="unidirectional", d_state=16, headdim=24)
    stack_directions(state, "", names=MAMBA2)
    mixer.load_state_dict(state)
    with torch.no_grad():
        assert_close(mixer(reference["input"], (7, 11, 1)), reference["output"], relative=1e-6)


def test_gated_spatial_conv():
    reference = golden("segmamba_modules.pt")["modules"]["GSC"]
    names = {"proj": "spatial1.0", "proj2": "spatial2.0", "proj3": "pointwise.0", "proj4": "fuse.0"}
    block = load(GatedSpatialConv(6, nn.Conv3d, KERNEL), reference["state_dict"], names)
    with torch.no_grad():
        assert_close(block(reference["input"]), reference["output"])


UNETR = {"conv1": "conv1", "conv2": "conv2", "conv3": "shortcut"}


@pytest.mark.parametrize("name", ["UnetrBasicBlock_proj", "UnetrBasicBlock_id"])
def test_unetr_block(name):
    reference = golden("segmamba_modules.pt")["modules"][name]
    block = UnetrResBlock(reference["config"]["cin"], reference["config"]["cout"], nn.Conv3d, KERNEL)
    block = load(block, reference["state_dict"], {f"layer.{theirs}.conv": ours for theirs, ours in UNETR.items()})
    with torch.no_grad():
        assert_close(block(reference["input"]), reference["output"])


def test_unetr_up_block():
    reference = golden("segmamba_modules.pt")["modules"]["UnetrUpBlock"]
    decoder = Decoder(
        [nn.ConvTranspose3d(8, 6, 2, 2, bias=False)],
        [UnetrResBlock(12, 6, nn.Conv3d, KERNEL)],
        [6],
        2,
        nn.Conv3d,
        False,
    )
    decoder.seg_layers[0] = nn.Identity()
    names = {f"conv_block.{theirs}.conv": f"stages.0.{ours}" for theirs, ours in UNETR.items()}
    decoder = load(decoder, reference["state_dict"], names | {"transp_conv.conv": "upsamplings.0"})
    below, skip = reference["input"]
    with torch.no_grad():
        assert_close(decoder([skip, below]), reference["output"])


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("orientation", range(6))
def test_ss3d(size, orientation):
    reference = golden("medsegmamba_modules.pt")["modules"][f"size{size}_o{orientation}"]
    prefix = "bottleneck.blocks.0.self_attention"
    state = {f"{prefix}.{key}": value for key, value in reference["state_dict"].items() if "scans" not in key}
    medsegmamba._stack_directions(state, 1)
    module = SS3D(16, nn.Conv3d, KERNEL, f"ss3d_{orientation}", d_state=4)
    names = {f"{prefix}.{part}": part for part in ("ssm", "in_proj", "out_norm", "out_proj")}
    module = load(module, state, names | {f"{prefix}.conv3d": "depthwise_conv.conv"})
    with torch.no_grad():
        output = module(reference["input"].flatten(1, 3), (size,) * 3)
    assert_close(output, reference["output"].flatten(1, 3))


def test_vss3d_block():
    reference = golden("medsegmamba_modules.pt")["modules"]["VSSBlock3D_v5"]
    state = {f"bottleneck.blocks.0.{key}": v for key, v in reference["state_dict"].items() if "scans" not in key}
    medsegmamba._stack_directions(state, 1)
    names = {ours: ours.removeprefix("bottleneck.blocks.0.") for ours in medsegmamba._ss3d_blocks(1).values()}
    names = {theirs: names[ours] for theirs, ours in medsegmamba._ss3d_blocks(1).items()}
    block = load(VSS3DBlock(16, SS3D(16, nn.Conv3d, KERNEL, "ss3d_4", d_state=4), 16, 0.0, 0.0), state, names)
    with torch.no_grad():
        output = block(reference["input"].flatten(1, 3), (4, 4, 4))
    assert_close(output, reference["output"].flatten(1, 3))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("ResConvBlock3D", ResConvBlock(8, 16, nn.Conv3d, KERNEL)),
        ("ResConvBlock3D_same", ResConvBlock(16, 16, nn.Conv3d, KERNEL)),
        ("conv_block_3D", ConvBlock(16, 8, nn.Conv3d, KERNEL)),
        ("upconv", UpConv(16, 8, nn.Conv3d, KERNEL, (2, 2, 2))),
        ("down_block", nn.Sequential(nn.MaxPool3d(2), ResConvBlock(8, 16, nn.Conv3d, KERNEL))),
    ],
)
def test_medsegmamba_convolutions(name, block):
    reference = golden("medsegmamba_modules.pt")["modules"][name]
    inner = "convs" if isinstance(block, ResConvBlock) else ""
    names = medsegmamba._conv_block("", inner) | {"identity": "shortcut"}
    names = {theirs.lstrip("."): ours.lstrip(".") for theirs, ours in names.items()}
    if name == "down_block":
        names = medsegmamba._conv_block("down.1", "1.convs") | {"down.1.identity": "1.shortcut"}
    if name == "upconv":
        names = {"up.0.1": "1.0", "up.1.0": "1.1"}
    block = load(block, reference["state_dict"], names)
    with torch.no_grad():
        assert_close(block(reference["input"]), reference["output"])
