"""Reading weights in the released format: what is refused, and the file for nnU-Net's -pretrained_weights.

The names and shapes are the released code's, from the golden files.
"""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import torch
from golden_files import GoldenFile
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from torch import nn

from nnunetv2_mamba.architectures import MedSegMamba, SegMamba, UMamba2, UMambaBot, UMambaEnc
from nnunetv2_mamba.architectures.released_weights import build_from_released, convert


@pytest.fixture
def segmamba_state():
    return GoldenFile("segmamba").state_dict()


@pytest.fixture
def medsegmamba_state():
    return GoldenFile("medsegmamba").state_dict()


def test_sizes_are_read_from_the_file(segmamba_state, medsegmamba_state):
    network = build_from_released(segmamba_state)
    assert isinstance(network, SegMamba)
    assert network.topology.features == (8, 12, 16, 12, 16)
    assert network.input_channels == 2
    assert [len(stage.tom_layers) for stage in network.encoder.stages] == [2, 1, 1, 1]
    network = build_from_released(medsegmamba_state)
    assert isinstance(network, MedSegMamba)
    assert network.topology.features == (8, 16, 32, 64)
    assert len(network.bottleneck.blocks) == 7


@pytest.mark.parametrize("wrapper", ["state_dict", "module", "network_weights"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
def test_wrapped_checkpoints(segmamba_state, wrapper, prefix):
    wrapped = {wrapper: {prefix + key: value for key, value in segmamba_state.items()}, "epoch": 3}
    expected, actual = build_from_released(segmamba_state).state_dict(), build_from_released(wrapped).state_dict()
    assert all(torch.equal(actual[key], value) for key, value in expected.items())


def test_every_key_is_needed_and_no_other_accepted(segmamba_state, medsegmamba_state):
    for state in (segmamba_state, medsegmamba_state):
        needed = [key for key in state if ".scans." not in key]
        for key in needed[::23] + needed[-1:]:
            with pytest.raises(ValueError):
                build_from_released({k: v for k, v in state.items() if k != key})
        with pytest.raises(ValueError, match="surprise"):
            build_from_released(state | {"surprise.weight": torch.zeros(1)})
    without_layer = {k: v for k, v in segmamba_state.items() if k != "vit.stages.0.1.mamba.A_log"}
    with pytest.raises(ValueError, match=r"vit.stages.0.1"):
        build_from_released(without_layer)


def test_other_shapes_are_refused(segmamba_state):
    key = "decoder3.conv_block.conv2.conv.weight"
    with pytest.raises(ValueError, match="has shape"):
        build_from_released(segmamba_state | {key: torch.zeros(1, 1, 1, 1, 1)})


@pytest.mark.parametrize(
    ("file", "key", "change", "message"),
    [
        ("segmamba", "vit.stages.0.0.mamba.D_b", lambda t: t[:1], r"mamba.D_b has shape \(1,\), but .*mamba.D \(16,\)"),
        ("segmamba", "vit.stages.0.0.mamba.A_s_log", torch.flatten, r"A_s_log has shape .256,., but .*A_log .16, 16.$"),
        ("medsegmamba", "bottleneck.blocks.0.self_attention.Ds", lambda t: t[:9], "Ds has 9 rows, which 8 directions"),
    ],
)
def test_directions_of_other_shapes_are_named(file, key, change, message):
    state = GoldenFile(file).state_dict()
    with pytest.raises(ValueError, match=message):
        build_from_released(state | {key: change(state[key])})


def test_umamba_without_its_first_stage_is_refused():
    golden = GoldenFile("umamba_bot_2d")
    state = {key: value for key, value in golden.state_dict().items() if key != "encoder.stages.0.0.conv1.weight"}
    with pytest.raises(ValueError, match="n_stages must be a whole number of at least 2, got 0"):
        build_from_released(state, strides=golden.config["strides"])


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    """A pickle may, and tensors are looked for in ever deeper dictionaries."""
    inside, outside = {"epoch": 3}, {"epoch": 3}
    inside["module"], outside["state_dict"] = outside, inside
    torch.save(outside, tmp_path / "circle.pt")
    with pytest.raises(ValueError, match="no state_dict found"):
        convert(tmp_path / "circle.pt", tmp_path / "out.pth")


def test_older_eras_are_told_apart(segmamba_state):
    no_slices = {key: value for key, value in segmamba_state.items() if "_s" not in key.split("mamba.")[-1]}
    with pytest.raises(ValueError, match="before 26 March 2024"):
        build_from_released(no_slices)
    with pytest.raises(ValueError, match="before 7 March 2024"):
        build_from_released(
            {f"mamba_encoder.{key}": value for key, value in segmamba_state.items()} | {"encoder1.w": torch.zeros(1)}
        )
    with pytest.raises(ValueError, match="neither a SegMamba"):
        build_from_released({"conv.weight": torch.zeros(1)})


def test_other_scan_tables_are_refused(medsegmamba_state):
    for key in [key for key in medsegmamba_state if ".scans." in key]:
        table = medsegmamba_state[key].clone()
        table[0, 0, [3, 4]] = table[0, 0, [4, 3]]
        with pytest.raises(ValueError, match="serpentine"):
            build_from_released(medsegmamba_state | {key: table})


@pytest.mark.parametrize(
    ("file", "arguments", "message"),
    [
        ("medsegmamba", {"tom_residual": False}, "tom_residual=False applies to SegMamba; .* a MedSegMamba state_dict"),
        ("umamba_bot_2d", {"tom_residual": False}, "tom_residual=False applies to SegMamba; .* a U-Mamba state_dict"),
        ("umamba2_2d", {"tom_residual": False}, "tom_residual=False applies to SegMamba; .* a U-Mamba2 state_dict"),
        ("segmamba", {"strides": [[1, 1, 1]]}, "strides=.* applies to U-Mamba and U-Mamba2; .* a SegMamba state_dict"),
        ("medsegmamba", {"patch_size": (8, 8, 8)}, "patch_size=.* applies to U-Mamba; .* a MedSegMamba state_dict"),
        ("umamba2_2d", {"patch_size": (8, 8, 8)}, "patch_size=.* applies to U-Mamba; .* a U-Mamba2 state_dict"),
    ],
)
def test_arguments_of_another_network_are_refused(file, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_from_released(GoldenFile(file).state_dict(), **arguments)


def test_convert_for_pretrained_weights(tmp_path, segmamba_state):
    """The file goes through nnU-Net's own loader, into a network with deep supervision and other classes."""
    source, target = tmp_path / "theirs.pt", tmp_path / "ours.pth"
    torch.save(segmamba_state, source)
    summary = convert(source, target)
    assert "SegMamba: 2 channels in, 3 out" in summary
    assert {path.name for path in tmp_path.iterdir()} == {"theirs.pt", "ours.pth"}
    network = SegMamba(
        2, 5, (8, 12, 16, 12, 16), nn.Conv3d, 3, [1, 2, 2, 2, 2], 7, True, n_tom_layers_per_stage=[2, 1, 1, 1]
    )
    load_pretrained_weights(network, target)
    expected = build_from_released(segmamba_state).state_dict()
    for key, value in network.state_dict().items():
        assert (
            torch.equal(value, expected[key]) != (".seg_layers." in key) if key in expected else ".seg_layers." in key
        )


def with_copies(state):
    """U-Mamba and U-Mamba2 register their encoder in the decoder too, and layers of a block twice."""
    state = dict(state)
    for layer, copy in (("conv", "all_modules.0"), ("norm", "all_modules.1")):
        for conv in (".conv1.", ".conv2.", ".skip.1.", ".convs.0.", ".convs.1."):
            kept, copied = f"{conv}{layer}.", f"{conv}{copy}."
            state |= {key.replace(kept, copied): value for key, value in state.items() if kept in key}
    return state | {f"decoder.{key}": value for key, value in state.items() if key.startswith("encoder.")}


def without_copies(state):
    copies = ("decoder.encoder.", ".all_modules.")
    return {key: value for key, value in state.items() if not any(copy in key for copy in copies)}


@pytest.fixture
def umamba_checkpoint():
    """Of UMambaEnc, as the nnU-Net it comes with writes it."""
    golden = GoldenFile("umamba_enc_3d")
    config = golden.config
    inherited = {"pool_op_kernel_sizes": config["strides"], "patch_size": [1, 1, 1]}
    configurations = {
        "3d_lowres": inherited,
        "3d_fullres": {"inherits_from": "3d_lowres", "patch_size": config["input_size"]},
    }
    return {
        "network_weights": with_copies(golden.state_dict()),
        "optimizer_state": {"param_groups": [{"lr": np.float64(0.01)}]},
        "logging": {"train_losses": [np.float32(-0.5)], "dice_per_class_or_region": [[np.float64(0.5), np.nan]]},
        "_best_ema": np.float64(0.3),
        "init_args": {
            "plans": {"configurations": configurations},
            "configuration": "3d_fullres",
            "device": torch.device("cuda"),
        },
    }


def test_umamba_is_read_from_its_checkpoint(umamba_checkpoint):
    network = build_from_released(umamba_checkpoint)
    assert isinstance(network, UMambaEnc)
    assert network.patch_size == (8, 24, 32) and network.topology.total_stride == (4, 8, 8)
    golden = GoldenFile("umamba_bot_2d")
    network = build_from_released(golden.state_dict(), strides=golden.config["strides"])
    assert isinstance(network, UMambaBot)
    assert network.topology.features == (8, 12, 16, 40) and network.input_channels == 2


def test_umamba_needs_what_its_state_dict_does_not_say(umamba_checkpoint):
    state = umamba_checkpoint["network_weights"]
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    with pytest.raises(ValueError, match="does not say its strides"):
        build_from_released(state)
    with pytest.raises(ValueError, match="belong to one patch size"):
        build_from_released(state, strides=strides)
    with pytest.raises(ValueError, match="stage 3|mamba_layers.3"):
        build_from_released(state, strides=strides, patch_size=(16, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "hold no plan of nnU-Net .*'plans'"),
        ({"plans": {"configurations": {}}, "configuration": "3d"}, "does not say its strides"),
        ({"plans": 3, "configuration": "3d"}, "hold no plan of nnU-Net"),
        ({"plans": {"configurations": {"3d": 3}}, "configuration": "3d"}, "hold no plan of nnU-Net"),
        ({"plans": {"configurations": {"3d": {}}}, "configuration": ["3d"]}, "hold no plan of nnU-Net"),
        ({"pool_op_kernel_sizes": 3}, "no sizes as strides: 3"),
        ({"pool_op_kernel_sizes": [[1, 1, 1], [2, 2, "two"]]}, r"no sizes as strides: \[\[1, 1, 1\], \[2, 2, 'two'"),
        ({"pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 10**30]]}, "no sizes as strides"),
        ({"patch_size": [8, 24, {}]}, "no sizes as patch_size: "),
        ({"patch_size": 2.5}, "no sizes as patch_size: 2.5"),
    ],
)
def test_a_plan_that_is_none_is_named(umamba_checkpoint, arguments, message):
    if "plans" not in arguments and arguments:  # of the configuration
        umamba_checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"].update(arguments)
        arguments = umamba_checkpoint["init_args"]
    with pytest.raises(ValueError, match=message):
        build_from_released(umamba_checkpoint | {"init_args": arguments})


def test_every_key_of_umamba_is_needed_and_copies_are_compared(umamba_checkpoint):
    state = umamba_checkpoint["network_weights"]
    for key in [*list(state)[::37], "encoder.mamba_layers.1.mamba.D"]:
        copied = key.startswith("decoder.encoder.") or ".all_modules." in key
        without = umamba_checkpoint | {"network_weights": {k: v for k, v in state.items() if k != key}}
        if copied:
            build_from_released(without)
            with pytest.raises(ValueError, match="damaged"):
                build_from_released(umamba_checkpoint | {"network_weights": state | {key: state[key] + 1}})
        else:
            with pytest.raises(ValueError):
                build_from_released(without)


def test_convert_umamba(tmp_path, umamba_checkpoint):
    """The whole checkpoint is read, numpy's numbers in it included, without running code."""
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(umamba_checkpoint, source)
    assert "UMambaEnc: 2 channels in, 3 out" in convert(source, target)
    network = build_from_released(umamba_checkpoint)
    expected = {key: value.clone() for key, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.data.zero_()
    load_pretrained_weights(network, target)
    for key, value in network.state_dict().items():  # nnU-Net leaves the heads out
        assert ".seg_layers." in key or torch.equal(value, expected[key]), key
    torch.save({**umamba_checkpoint, "init_args": Evil()}, source)
    with pytest.raises(ValueError, match="cannot be loaded as plain weights"):
        convert(source, target)


class Evil:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def test_convert_never_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "evil.pt"
    for content in ({"state_dict": Evil()}, Evil()):
        torch.save(content, source)
        with pytest.raises(ValueError, match="evil.pt cannot be loaded as plain weights"):
            convert(source, tmp_path / "out.pth")
        source.write_bytes(pickle.dumps(content))
        with pytest.raises(ValueError, match="evil.pt cannot be loaded as plain weights"):
            convert(source, tmp_path / "out.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["evil.pt"]


def test_convert_reports_files_that_are_not_weights(tmp_path):
    source = tmp_path / "notes.pt"
    source.write_text("hello")
    with pytest.raises(ValueError, match="notes.pt"):
        convert(source, tmp_path / "out.pth")
    torch.save(torch.zeros(3), source)
    with pytest.raises(ValueError, match="expected a state_dict"):
        convert(source, tmp_path / "out.pth")
    torch.save({"epoch": 3}, source)
    with pytest.raises(ValueError, match="no state_dict found"):
        convert(source, tmp_path / "out.pth")
    with pytest.raises(OSError):
        convert(tmp_path / "absent.pt", tmp_path / "out.pth")


@pytest.fixture(params=["3d", "2d"])
def umamba2_state(request):
    return with_copies(GoldenFile(f"umamba2_{request.param}").state_dict())


def test_umamba2_is_read_from_its_weights_alone(umamba2_state):
    network = build_from_released({"network_weights": umamba2_state})
    assert isinstance(network, UMamba2)
    assert network.topology.features == (8, 12, 16, 40) and network.input_channels == 2
    assert [len(stage.blocks) for stage in network.encoder.stages] == [1, 2, 2, 1]
    assert [len(stage.convs) for stage in network.decoder.stages] == [1, 2, 1]
    assert (network.mamba_layer.mamba.d_state, network.mamba_layer.mamba.ssd.heads) == (32, 4)
    volume = len(network.topology.strides[0]) == 3
    assert network.topology.total_stride == ((4, 8, 8) if volume else (8, 8))


def test_every_key_of_umamba2_is_needed_and_copies_are_compared(umamba2_state):
    expected = build_from_released(umamba2_state).state_dict()
    for key in [*list(umamba2_state)[::23], "mamba_layer.mamba.dt_bias", "mamba_layer.norm.bias"]:
        without = {name: value for name, value in umamba2_state.items() if name != key}
        if key.startswith("decoder.encoder.") or ".all_modules." in key:
            assert all(torch.equal(expected[k], v) for k, v in build_from_released(without).state_dict().items())
            with pytest.raises(ValueError, match="damaged"):
                build_from_released(umamba2_state | {key: umamba2_state[key] + 1})
        else:
            with pytest.raises(ValueError):
                build_from_released(without)
    with pytest.raises(ValueError, match=r"unknown keys \['click\.weight'\]"):
        build_from_released(umamba2_state | {"click.weight": torch.zeros(1)})


def test_plans_of_umamba2s_checkpoint_must_agree_with_its_weights(umamba2_state, tmp_path):
    """nnU-Net has had the strides among the network's arguments since its version 2.4."""
    right = [list(stride) for stride in build_from_released(umamba2_state).topology.strides]
    wrong = [*right[:-1], right[0]]

    def checkpoint(strides):
        architecture = {"arch_kwargs": {"strides": strides}}
        configurations = {"3d_fullres": {"patch_size": [8, 16, 24], "architecture": architecture}}
        plans = {"plans": {"configurations": configurations}, "configuration": "3d_fullres"}
        return {"network_weights": umamba2_state, "init_args": plans}

    build_from_released(checkpoint(right))
    for given in (checkpoint(wrong), umamba2_state):
        with pytest.raises(ValueError, match="the weights have the strides .* but the plan says"):
            build_from_released(given, strides=wrong if given is umamba2_state else None)
    source, target = tmp_path / "theirs.pth", tmp_path / "ours.pth"
    torch.save(checkpoint(right), source)
    assert "UMamba2: 2 channels in, 3 out" in convert(source, target)
    network = build_from_released(umamba2_state)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    load_pretrained_weights(network, target)
    assert all(value.any() for key, value in network.state_dict().items() if ".seg_layers." not in key)


LAYER = "mamba_layer.mamba"


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        (f"{LAYER}.dt_bias", torch.zeros(0), "no state_dict: .*dt_bias' of shape .0,. is no parameter"),
        (f"{LAYER}.dt_bias", torch.zeros(2, 2), r"dt_bias has shape \(2, 2\), expected 1 axes"),
        (f"{LAYER}.out_proj.weight", torch.zeros(7), r"out_proj.weight has shape \(7,\), expected 2 axes"),
        (f"{LAYER}.conv1d.weight", torch.zeros(144, 4), r"conv1d.weight has shape \(144, 4\), expected 3 axes"),
        (f"{LAYER}.A_log", torch.zeros(4, dtype=torch.int64), "A_log is torch.int64, the network needs torch.float32"),
        (f"{LAYER}.A_log", torch.zeros(4, dtype=torch.complex64), "A_log is torch.complex64"),
        (f"{LAYER}.A_log", torch.tensor([0.0, torch.nan, 0.0, 0.0]), "mamba_layer.* holds numbers that are not finite"),
        ("decoder.seg_layers.0.weight", torch.tensor(1.0), "seg_layers.0.weight has shape .., expected some axes"),
        ("encoder.stem.convs.0.conv.weight", torch.zeros(8), r"conv.weight has shape \(8,\), expected 4 or 5 axes"),
        (3, torch.zeros(1), "no state_dict: 3 of shape"),
    ],
)
def test_tensors_of_no_umamba2_are_named(umamba2_state, key, tensor, message):
    with pytest.raises(ValueError, match=message):
        build_from_released(without_copies(umamba2_state) | {key: tensor})


def test_sizes_beyond_the_file_take_no_memory(umamba2_state):
    """A first width of a million would make a convolution of a million by a million."""
    key = "encoder.stages.0.blocks.0.conv1.conv.weight"
    wide = torch.zeros(10**6, *[1] * (umamba2_state[key].ndim - 1))
    with pytest.raises(ValueError, match="the state_dict does not fit UMamba2: .* has shape"):
        build_from_released(without_copies(umamba2_state) | {key: wide})
