"""Mamba-2 in the networks: along several paths, in SS3D, its heads and states, and the controls that it has."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_close
from mamba2_written_out import gated_normed_projected, recurrence, scanned
from test_networks import NETWORKS, build
from torch import nn
from torch.nn import functional

from nnunetv2_mamba.architectures.blocks.directional_ssd import DirectionalSSD, SelectiveSSD, head_size
from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer
from nnunetv2_mamba.architectures.blocks.mixers.registry import MIXERS, MixerOptions
from nnunetv2_mamba.architectures.blocks.scan_paths import PATHS, scan_paths
from nnunetv2_mamba.architectures.medsegmamba.ss3d import SS3D
from nnunetv2_mamba.architectures.registry import MAMBA2
from nnunetv2_mamba.architectures.registry import NETWORKS as REGISTERED

GRID = (2, 3, 4)
NAMES = ["segmamba", "ss3d", "tom", "umamba bot", "umamba enc", "msd-kmamba"]


def randomised(module: nn.Module) -> nn.Module:
    """In float64, with no parameter at its initial value."""
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += torch.randn_like(parameter) / 4
    return module


@pytest.mark.parametrize("scan", ["bidirectional", "tri_oriented", "ss3d_3"])
def test_directions_are_summed_before_the_gate(scan):
    """Each direction is the official block, of whose projections z and x are shared."""
    block = randomised(sequence_mixer("mamba2", 6, nn.Conv3d, scan, d_state=5, headdim=4))
    tokens = torch.randn(2, 24, 6, dtype=torch.float64)
    z, x, projected, steps = block.in_proj.weight.split(block.sizes)
    paths = scan_paths(scan).table(GRID, tokens.device)
    total, directions = 0, len(paths)
    for k in range(directions):
        state = {
            "in_proj.weight": torch.cat([z, x, projected.chunk(directions)[k], steps.chunk(directions)[k]]),
            "conv1d.weight": block.conv_weight[k, :, None],
            "conv1d.bias": block.conv_bias[k],
            "A_log": block.ssd.A_log[k],
            "D": block.ssd.D[k],
            "dt_bias": block.ssd.dt_bias[k],
            "norm.weight": block.norm.weight,
            "out_proj.weight": block.out_proj.weight,
        }
        y, gate = scanned(state, tokens[:, paths[k]])
        back = paths[k].argsort()
        total, gate = total + y[:, back], gate[:, back]
    assert_close(block(tokens, GRID), gated_normed_projected(state, total, gate), 1e-12)


def test_the_scan_of_ss3d():
    """Steps, B and C of every direction are projections of what is scanned; no gate, no causal convolution."""
    ssd = randomised(SelectiveSSD(6, 8, d_state=5, headdim=3))
    u = torch.randn(2, 24, 6, dtype=torch.float64)
    paths = scan_paths("ss3d_2").table(GRID, u.device)
    expected = 0
    for k, path in enumerate(paths):
        dt, B, C = (u @ ssd.x_proj_weight[k].T)[:, path].split((2, 5, 5), dim=-1)
        scan = ssd.ssd
        y = recurrence(u[:, path], dt + scan.dt_bias[k], scan.A_log[k], B, C, scan.D[k])
        expected = expected + y[:, path.argsort()]
    assert_close(ssd(u, paths), expected, 1e-12)


def test_a_scan_starts_as_mamba_ssms():
    """A is drawn from [1, 16], steps evenly by ratio from [0.001, 0.1], D is 1."""
    scan = DirectionalSSD(4096, 2, 1)
    rates, steps = scan.A_log.exp(), nn.functional.softplus(scan.dt_bias)
    for values, low, high in ((rates, 1, 16), (steps.log10(), -3, -1)):
        assert values.min() > low - 0.01 and values.max() < high + 0.01
        shares = values.histc(4, low, high) / values.numel()
        assert ((shares - 0.25).abs() < 0.05).all(), shares
    assert (scan.D == 1).all()


def test_ss3d_with_it_keeps_all_else():
    twins = [SS3D(16, nn.Conv3d, (3, 3, 3), "ss3d_1", d_state=4, mixer=mixer) for mixer in ("mamba", "mamba2")]
    mamba, mamba2 = ({key for key in twin.state_dict() if not key.startswith("ssm.")} for twin in twins)
    assert mamba == mamba2 and isinstance(twins[1].ssm, SelectiveSSD)
    block, tokens = twins[1], torch.randn(2, 24, 16)
    u = functional.silu(block.depthwise_conv(block.in_proj(tokens), GRID))
    paths = scan_paths("ss3d_1").table(GRID, tokens.device)
    expected = block.out_proj(block.out_norm(block.ssm(u, paths)))
    torch.testing.assert_close(block(tokens, GRID), expected)


@pytest.mark.parametrize("name", NAMES)
def test_heads_and_states_are_options_of_every_network(name):
    network, _ = build(name, mixer="mamba2", d_state=6, headdim=4)
    scans = [module for module in network.modules() if isinstance(module, DirectionalSSD)]
    assert scans
    for module in network.modules():
        inner = getattr(getattr(module, "out_proj", None), "in_features", None)
        if isinstance(module, MIXERS["mamba2"]):
            assert module.d_state == 6 and module.ssd.heads == inner // 4
        elif isinstance(module, SS3D):
            assert module.ssm.d_state == 6 and module.ssm.ssd.heads == inner // 4
    default, _ = build(name, mixer="mamba2")
    mixing = [module for module in default.modules() if isinstance(module, (MIXERS["mamba2"], SelectiveSSD))]
    assert {module.d_state for module in mixing} == {{"ss3d": 4, "tom": 4}.get(name, 16)}  # 4 is the tests' choice


@pytest.mark.parametrize("name", NAMES)
def test_states_are_an_option_with_mamba_too(name):
    network, _ = build(name, d_state=6)
    logarithms = [value for key, value in network.state_dict().items() if key.endswith("ssm.A_log")]
    assert logarithms and all(value.shape[-1] == 6 for value in logarithms)


def test_every_network_with_mamba_has_a_trainer_with_mamba2():
    with_it = {name for name, network in REGISTERED.items() if MAMBA2.keys() <= network.variants.keys()}
    mixing = {name for name, network in REGISTERED.items() if "mixer" in network.network_class.option_names()}
    assert with_it == mixing - {"TABSurfer", "UMamba2"}
    for name in with_it:
        network, options = NETWORKS[f"{name}Mamba2"]
        assert options["mixer"] == "mamba2" and network is REGISTERED[name].network_class


@pytest.mark.parametrize(
    ("channels", "headdim", "size"),
    [(96, 64, 48), (192, 64, 64), (1024, 80, 64), (640, 80, 80), (62, 64, 62), (7, 64, 7), (7, 2, 1), (12, 1, 1),
     (8, 3, 4), (2, 1000, 2), (18, 4, 3)],
)  # fmt: skip
def test_the_rule_of_heads(channels, headdim, size):
    """The nearest divisor by ratio."""
    assert head_size(channels, headdim) == size


@pytest.mark.parametrize("fusion", ["sum", "learned"])
@pytest.mark.parametrize("scan", PATHS)
def test_its_convolution_is_as_large_as_what_it_replaces(scan, fusion):
    """Of one axis, where the kernel can have about any number of weights. Projections to x and z, and back, stay."""
    options = {"scan": scan, "fusion": fusion, "headdim": 4, "controls_of": "mamba2"}
    mamba = sequence_mixer("mamba2", 8, nn.Conv1d, **options)
    replaced = sum(p.numel() for p in mamba.parameters()) - 2 * 16 * 8 - 8 * 16 - 16
    assert MIXERS["mamba2"].sequence_weights(MixerOptions(8, nn.Conv1d, **options)) == replaced
    none, conv = (sequence_mixer(mixer, 8, nn.Conv1d, **options) for mixer in ("none", "conv"))
    added = sum(p.numel() for p in conv.parameters()) - sum(p.numel() for p in none.parameters())
    assert abs(added - replaced) <= 2 * 16
    assert sum(p.numel() for p in none.parameters()) == sum(p.numel() for p in mamba.parameters()) - replaced


@pytest.mark.parametrize("mixer", ["none", "conv"])
def test_its_controls_keep_the_norm_after_the_gate(mixer):
    block = sequence_mixer(mixer, 8, nn.Conv3d, controls_of="mamba2")
    tokens = torch.randn(2, 24, 8)
    z, x = block.in_proj(tokens).chunk(2, -1)
    mixed = x if mixer == "none" else block.conv(x, GRID)
    gated = functional.silu(mixed) * functional.silu(z)
    normed = functional.rms_norm(gated, (16,), block.norm.weight, 1e-5)
    torch.testing.assert_close(block(tokens, GRID), block.out_proj(normed))
    assert sequence_mixer(mixer, 8, nn.Conv3d).norm is None


def test_what_has_no_controls():
    with pytest.raises(ValueError, match="GatedIdentity has no controls"):
        sequence_mixer("conv", 8, nn.Conv3d, controls_of="none")


def test_squares_beyond_fp16_are_normed():
    """The block's gated tokens are near fp16's largest number, whose squares it cannot hold."""
    block = sequence_mixer("none", 8, nn.Conv3d, controls_of="mamba2")
    with torch.no_grad(), torch.autocast("cpu", torch.float16):
        block.in_proj.weight.fill_(20)
        mixed = block(torch.ones(1, 24, 8), GRID)
    assert mixed.dtype is torch.float16 and mixed.isfinite().all() and mixed.any()
