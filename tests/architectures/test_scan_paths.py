"""Every network walks its grid as ``scan`` says and puts the paths together as ``fusion`` says."""

from __future__ import annotations

import re

import pytest
import torch
from comparison import assert_close
from test_networks import build
from torch import nn

from nnunetv2_mamba.architectures import SegMamba
from nnunetv2_mamba.architectures.blocks.directional_ssd import DirectionalSSD
from nnunetv2_mamba.architectures.blocks.directional_ssm import DirectionalSSM
from nnunetv2_mamba.architectures.blocks.mixers import sequence_mixer
from nnunetv2_mamba.architectures.blocks.scan_paths import PATHS, SCANS, scan_of_block, scan_paths
from nnunetv2_mamba.ops import scan_order

DEFAULTS = {
    "segmamba": "tri_oriented", "ss3d": "serpentine", "tom": "tri_oriented", "umamba bot": "raster",
    "umamba enc": "raster", "msd-kmamba": "bidirectional",
}  # fmt: skip
DIRECTIONS = {
    "raster": 1, "bidirectional": 2, "tri_oriented": 3, "six_axes": 6, "serpentine": 8, "morton": 1, "hilbert": 1,
    "random": 1, "tri_oriented+reverse": 4, "hilbert+reverse": 2,
}  # fmt: skip


def scanning(network: nn.Module) -> list[nn.Module]:
    """The layers that scan, in their order."""
    return [module for module in network.modules() if hasattr(module, "ssm")]


@pytest.mark.parametrize("shape", ["anisotropic", "2D"])
@pytest.mark.parametrize("name", DEFAULTS)
def test_every_network_trains_with_every_scan(name, shape):
    results = {}
    for scan in DIRECTIONS:
        torch.manual_seed(0)
        network, x = build(name, shape, scan=scan, fusion="learned")
        result = network.eval()(torch.linspace(-1, 1, x.numel()).view_as(x))
        result.square().mean().backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), (scan, key)
        directions = 4 if (scan, shape) == ("six_axes", "2D") else DIRECTIONS[scan]
        layers = scanning(network)[:1] if name == "umamba enc" else scanning(network)  # its channels are a line
        for layer in layers:
            assert layer.ssm.D.shape[0] == layer.ssm.fusion_weight.shape[0] == directions
        results[scan] = result.detach()
    # of one direction and the same weights: the order alone differs
    for scan in ("morton", "hilbert", "random"):
        assert not torch.equal(results[scan], results["raster"]), scan
    assert not torch.equal(results["hilbert"], results["random"])


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_defaults_are_the_papers(name):
    torch.manual_seed(0)
    network, x = build(name)
    torch.manual_seed(0)
    explicit, _ = build(name, scan=DEFAULTS[name], fusion="sum")
    assert network.state_dict().keys() == explicit.state_dict().keys()
    assert not any("fusion_weight" in key for key in network.state_dict())
    with torch.no_grad():
        assert torch.equal(network.eval()(x), explicit.eval()(x))


@pytest.mark.parametrize("name", ["segmamba", "msd-kmamba", "ss3d", "tom", "umamba enc"])
def test_serpentines_turn_from_block_to_block(name):
    layers = {"segmamba": "n_tom_layers_per_stage", "msd-kmamba": "n_mamba_layers_per_stage"}
    more = {layers[name]: [3, 5]} if name in layers else {"n_bottleneck_blocks": 8} if name in ("ss3d", "tom") else {}
    network, _ = build(name, scan="serpentine", **more)
    orientations = [int(layer.scan.removeprefix("ss3d_")) for layer in scanning(network)]
    assert orientations == [block % 6 for block in range(3 if name == "umamba enc" else 8)]


def test_with_serpentines_segmamba_has_ss3ds_paths_at_every_level():
    network, x = build("segmamba", scan="serpentine")
    layers = scanning(network)
    assert [layer.ssm.D.shape[0] for layer in layers] == [8, 8]
    grid = (4, 6, 5)
    for block, layer in enumerate(layers):
        assert torch.equal(PATHS[layer.scan].table(grid, torch.device("cpu")), scan_order.ss3d(grid, block))


def test_scan_of_block():
    assert [scan_of_block("serpentine", block) for block in (0, 5, 6)] == ["ss3d_0", "ss3d_5", "ss3d_0"]
    assert scan_of_block("serpentine+reverse", 1) == "ss3d_1"  # they have their reversals
    assert {scan_of_block("hilbert+reverse", block) for block in range(7)} == {"hilbert+reverse"}
    for scan in ("snake", "ss3d_0", "serpentine+", ["raster"]):  # the second is what a layer takes
        with pytest.raises(ValueError, match=re.escape(f"or one of them and +reverse; got {scan!r}")):
            scan_of_block(scan, 0)


def test_what_raster_was_called_is_raster():
    grid, cpu = (2, 3, 4), torch.device("cpu")
    assert scan_paths("unidirectional").table(grid, cpu) is scan_paths("raster").table(grid, cpu)
    build("umamba bot", scan="unidirectional")


@pytest.mark.parametrize("scan", SCANS)
def test_tables_are_made_once_for_a_grid(scan):
    layers = [sequence_mixer("mamba", 4, nn.Conv3d, scan, d_state=2) for _ in range(2)]
    tokens, grid = torch.randn(1, 24, 4), (2, 3, 4)
    layers[0](tokens, grid)
    before = scan_order.tables._cached_table.cache_info().misses
    layers[0](tokens, grid), layers[1](tokens, grid)
    assert scan_order.tables._cached_table.cache_info().misses == before


# ---------------------------------------------------------------------------------------------------------------------
# Fusion


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_learned_fusion_starts_as_the_sum(name):
    torch.manual_seed(0)
    network, x = build(name)
    torch.manual_seed(0)
    learned, _ = build(name, fusion="learned")
    more = learned.state_dict().keys() - network.state_dict().keys()
    assert more == {key.replace(".D", ".fusion_weight") for key in network.state_dict() if key.endswith("ssm.D")}
    assert all((learned.state_dict()[key] == 1).all() for key in more)
    assert not learned.load_state_dict(network.state_dict(), strict=False).unexpected_keys
    with torch.no_grad():
        assert_close(learned.double().eval()(x.double()), network.double().eval()(x.double()), 1e-12)


@pytest.mark.parametrize("per_direction", [False, True])
def test_a_learned_fusion_weights_the_paths_of_a_scan(per_direction):
    """Each path by itself, then the weighted sum and the gate."""
    ssm = DirectionalSSM(6, 3, 4, 2, fusion="learned").double()
    nn.init.normal_(ssm.fusion_weight)
    grid = (2, 3, 4)
    u = torch.randn(2, *((3,) if per_direction else ()), 24, 6, dtype=torch.float64)
    z, paths = torch.randn(2, 24, 6, dtype=torch.float64), scan_order.tri_oriented(grid)
    expected = 0
    for k in range(3):
        alone = DirectionalSSM(6, 1, 4, 2).double()
        alone.load_state_dict({key: value[k : k + 1] for key, value in ssm.state_dict().items() if "fusion" not in key})
        expected = expected + ssm.fusion_weight[k] * alone(u[:, k] if per_direction else u, paths[k : k + 1])
    expected = expected * nn.functional.silu(z)
    computed = ssm(u, paths, z)
    assert_close(computed, expected, 1e-12)
    given, right = (torch.autograd.grad(y.square().sum(), ssm.fusion_weight)[0] for y in (computed, expected))
    assert_close(given, right, 1e-10)
    assert ssm.fusion_weight._no_weight_decay


def test_a_learned_fusion_stays_in_the_range_of_half_precision():
    ssm = DirectionalSSM(4, 2, 2, 1, fusion="learned")
    with torch.no_grad():
        ssm.fusion_weight.fill_(1e4)
    with torch.autocast("cpu", torch.float16):
        scanned = ssm(torch.full((1, 6, 4), 100.0, dtype=torch.float16), scan_order.bidirectional((2, 3)))
    assert scanned.dtype is torch.float16 and scanned.isfinite().all()


def test_a_learned_fusion_of_mamba2_weights_its_paths():
    ssd = DirectionalSSD(6, 3, 3, fusion="learned").double()
    nn.init.normal_(ssd.fusion_weight)
    u, delta = torch.randn(2, 24, 6, dtype=torch.float64), torch.randn(2, 3, 24, 2, dtype=torch.float64)
    B, C = torch.randn(2, 2, 3, 24, 4, dtype=torch.float64)
    paths, expected = scan_order.tri_oriented((2, 3, 4)), 0
    for k in range(3):
        alone = DirectionalSSD(6, 1, 3).double()
        alone.load_state_dict({key: value[k : k + 1] for key, value in ssd.state_dict().items() if "fusion" not in key})
        of_k = (t[:, k : k + 1] for t in (delta, B, C))
        expected = expected + ssd.fusion_weight[k] * alone(u, *of_k, paths[k : k + 1])
    assert_close(ssd(u, delta, B, C, paths), expected, 1e-12)
    assert ssd.fusion_weight._no_weight_decay


def test_a_control_is_as_large_as_a_learned_fusion():
    """Of one axis, where the kernel can have about any number of weights."""
    options = dict(d_model=8, conv_op=nn.Conv1d, scan="serpentine", d_state=4, fusion="learned")
    sizes = {
        name: sum(
            p.numel() for key, p in sequence_mixer(name, **options).named_parameters() if "proj.weight" not in key
        )
        for name in ("mamba", "conv")
    }
    assert abs(sizes["conv"] - sizes["mamba"]) <= 2 * 16


@pytest.mark.parametrize("name", ["segmamba", "ss3d"])
def test_networks_with_other_scans_compile_whole(name):
    network, x = build(name, scan="hilbert+reverse", fusion="learned")
    network.eval()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_close(compiled(x), network(x), 1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        *((name, dict(scan="spiral"), "scan must be one of raster, .*; got 'spiral'") for name in DEFAULTS),
        *((name, dict(fusion="mean"), "fusion must be one of sum, learned; got 'mean'") for name in DEFAULTS),
        ("ss3d none", dict(fusion=["sum"]), r"fusion must be one of sum, learned; got \['sum'\]"),
        ("segmamba none", dict(scan=3), "scan must be one of raster, .*; got 3"),
        ("transformer", dict(scan="raster"), "scan and fusion have no effect with bottleneck='transformer'"),
        ("conv bottleneck", dict(fusion="learned"), "scan and fusion have no effect with bottleneck='conv'"),
        ("ss3d", dict(scan=""), "scan must be one of raster, .*; got ''"),
    ],
)
def test_errors_name_the_argument(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_the_arguments_are_options_that_a_plan_may_hold():
    assert {"scan", "fusion"} <= {*SegMamba.option_names()}
