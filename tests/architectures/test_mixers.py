"""Every sequence mixer has one interface, along every order of scanning; a new one reaches every network."""

from __future__ import annotations

import pytest
import torch
from operator_calls import OperatorCalls
from test_networks import build
from torch import nn

from nnunetv2_mamba import ops
from nnunetv2_mamba.architectures.blocks.mixers import MIXERS, SequenceMixer, register_mixer, sequence_mixer
from nnunetv2_mamba.architectures.blocks.scan_paths import PATHS

GRIDS = {"2D": (nn.Conv2d, (3, 5)), "3D": (nn.Conv3d, (2, 3, 4))}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scan", PATHS)
@pytest.mark.parametrize("mixer", MIXERS)
def test_tokens_in_tokens_out(mixer, scan, grid):
    conv_op, shape = GRIDS[grid]
    layer = sequence_mixer(mixer, 8, conv_op, scan, d_state=4, d_conv=3, expand=1, dt_init="first")
    tokens = torch.randn(2, torch.Size(shape).numel(), 8, requires_grad=True)
    mixed = layer(tokens, shape)
    assert mixed.shape == tokens.shape
    mixed.square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in (tokens, *layer.parameters()))


@pytest.mark.parametrize("mixer", MIXERS)
def test_who_sees_whom(mixer):
    layer = sequence_mixer(mixer, 4, nn.Conv3d, "bidirectional").double()
    tokens = torch.randn(1, 2 * 3 * 40, 4, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(tokens, (2, 3, 40))[0, 10].sum(), tokens)
    seen = gradient[0].abs().sum(1) > 0
    assert seen[10] and (int(seen.sum()) == 1) == (mixer == "none")
    assert bool(seen.all()) == mixer.startswith("mamba")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("scan", PATHS)
def test_every_path_visits_every_token(scan, grid):
    shape = GRIDS[grid][1]
    table = PATHS[scan].table(shape, torch.device("cpu"))
    length = torch.Size(shape).numel()
    assert table.shape == (PATHS[scan].directions(len(shape)), length)
    assert torch.equal(table.sort(dim=1).values, torch.arange(length, dtype=torch.int32).expand_as(table))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scan": "spiral"}, r"scan must be one of raster, .* random, or one of them and \+reverse; got 'spiral'"),
        ({"scan": "hilbert+"}, r"got 'hilbert\+'"),
        ({"scan": ["raster"]}, r"scan must be one of raster, .*; got \['raster'\]"),
        ({"fusion": "mean"}, "fusion must be one of sum, learned; got 'mean'"),
        ({"mixer": "lstm"}, "mixer must be one of mamba, mamba2, none, conv; got 'lstm'"),
        ({"mixer": ["mamba"]}, r"mixer must be one of mamba, mamba2, none, conv; got \['mamba'\]"),
    ],
)
def test_unknown_names_are_answered_with_those_there_are(arguments, message):
    with pytest.raises(ValueError, match=message):
        sequence_mixer(**{"mixer": "none", "d_model": 8, "conv_op": nn.Conv3d, **arguments})


class MeanMixer(SequenceMixer):
    """Every token sees the mean of all."""

    def __init__(self, options):
        super().__init__()
        self.proj = nn.Linear(options.d_model, options.d_model)

    def forward(self, tokens, grid):
        return self.proj(tokens + tokens.mean(1, keepdim=True))


@pytest.fixture
def mean_mixer():
    yield register_mixer("mean")(MeanMixer)
    del MIXERS["mean"]


@pytest.mark.parametrize("name", ["segmamba", "ss3d", "tom", "umamba bot", "umamba enc", "msd-kmamba"])
def test_a_new_mixer_reaches_every_network(name, mean_mixer):
    network, x = build(name, mixer="mean")
    assert any(isinstance(module, MeanMixer) for module in network.modules())
    assert not any(key.endswith("A_log") for key in network.state_dict())
    network(x).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_attention_has_its_own_controls_only(mean_mixer):
    with pytest.raises(ValueError, match="mixer must be one of mamba, none, conv with attention; got 'mean'"):
        build("transformer", mixer="mean")


def test_two_mixers_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two mixers are named mamba"):
        register_mixer("mamba")(MeanMixer)
    assert MIXERS["mamba"] is not MeanMixer


def test_scans_declare_that_checkpointing_keeps_them():
    scans = {"mamba": "directional_scan", "mamba2": "directional_ssd"}
    assert {operator.name() for operator in ops.KEPT_BY_CHECKPOINTING} == {
        f"nnunetv2_mamba::{s}" for s in scans.values()
    }
    for mixer, scan in scans.items():
        layer = sequence_mixer(mixer, 8, nn.Conv3d)
        with OperatorCalls() as calls:
            layer(torch.randn(1, 24, 8), (2, 3, 4)).sum().backward()
        assert calls.counts[scan] == 1, mixer


@pytest.mark.parametrize("mixer", ["mamba", "mamba2"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_directions_compile_for_training(mixer, backend, monkeypatch):
    """Of several directions, what is split from a projection has the tokens before the directions."""
    monkeypatch.setenv("NNUNETV2_MAMBA_SCAN", backend)
    torch.compiler.reset()
    layer = sequence_mixer(mixer, 8, nn.Conv3d, "tri_oriented")
    tokens = torch.randn(1, 24, 8, requires_grad=True)
    compiled = torch.compile(layer, backend="inductor" if backend == "torch" else "aot_eager", fullgraph=True)
    gradients = [
        torch.autograd.grad(function(tokens, (2, 3, 4)).square().sum(), [tokens, *layer.parameters()])
        for function in (compiled, layer)
    ]
    for actual, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
