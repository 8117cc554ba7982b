"""What residual blocks, SegMamba and scans keep for the backward pass; what is computed again is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kept_storages import kept_storages
from operator_calls import OperatorCalls
from test_networks import build
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mamba.architectures.blocks.half_precision import saturate_layers, saturated
from nnunetv2_mamba.architectures.blocks.mixers import gated, mamba, mamba2, sequence_mixer
from nnunetv2_mamba.architectures.blocks.recompute import recomputed
from nnunetv2_mamba.architectures.medsegmamba import ss3d
from nnunetv2_mamba.architectures.segmamba.unetr_block import UnetrResBlock

CHANNELS = {"identity": (8, 8), "wider": (4, 8)}  # in and out


def block_and_input(kind: str, dtype: torch.dtype = torch.float32) -> tuple[UnetrResBlock, Tensor]:
    in_channels, out_channels = CHANNELS[kind]
    block = UnetrResBlock(in_channels, out_channels, nn.Conv3d, (3, 3, 3)).to(dtype)
    saturate_layers(block)
    return block, torch.randn(2, in_channels, 5, 6, 4, dtype=dtype, requires_grad=True)


def plain(block: UnetrResBlock, x: Tensor) -> Tensor:
    """The block in torch's operations, nothing computed again."""
    shortcut = x if block.shortcut is None else block.norm(block.shortcut(x))
    y = nn.functional.leaky_relu(block.norm(block.conv1(x)), 0.01)
    return nn.functional.leaky_relu(saturated(block.norm(block.conv2(y)) + shortcut), 0.01)


def output_and_gradients(block: UnetrResBlock, x: Tensor, forward: Callable[[], Tensor]) -> tuple[Tensor, ...]:
    output = forward()
    loss = (output.float() * torch.linspace(-1, 1, output.numel()).view_as(output)).sum()
    return output, *torch.autograd.grad(loss, (x, *block.parameters()))


@pytest.mark.parametrize("kind", CHANNELS)
def test_gradcheck(kind):
    block, x = block_and_input(kind, torch.float64)
    x = x[:, :, :3, :2, :2].detach().requires_grad_()
    weights = tuple(block.parameters())
    assert torch.autograd.gradcheck(lambda x, *weights: block(x), (x, *weights), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", CHANNELS)
def test_block_is_the_plain_one_to_the_last_bit(kind, dtype):
    block, x = block_and_input(kind)
    x = x.detach().to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        expected = output_and_gradients(block, x, lambda: plain(block, x))
        actual = output_and_gradients(block, x, lambda: block(x))
    assert expected[0].dtype == dtype
    for a, b in zip(actual, expected, strict=True):
        assert a.isfinite().all()
        assert torch.equal(a, b)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        assert torch.equal(block(x), expected[0])


@pytest.mark.parametrize("kind", CHANNELS)
def test_block_compiles_whole(kind):
    block, x = block_and_input(kind)
    expected = output_and_gradients(block, x, lambda: block(x))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(output_and_gradients(block, x, lambda: compiled(x)), expected)


def kept_sizes(forward: Callable[[], object]) -> list[int]:
    return [storage.nbytes() for storage in kept_storages(forward)]


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        ("identity", 4),  # its input, the results of its convolutions and its output
        ("wider", 2),  # the results of its convolutions; and its input, which is smaller
    ],
)
def test_what_a_block_keeps(kind, features):
    block, x = block_and_input(kind)
    width = block.conv1.out_channels * x[:, 0].nbytes
    assert kept_sizes(lambda: block(x)).count(width) == features
    assert kept_sizes(lambda: plain(block, x)).count(width) >= features + 2


def test_the_convolutions_at_the_end_are_not_computed_again():
    block, x = block_and_input("wider")

    def flops(forward: Callable[[], Tensor]) -> int:
        with FlopCounterMode(display=False) as counter:
            forward().sum().backward()
        return counter.get_total_flops()

    shortcut = 2 * 4 * 8 * x[:, 0].numel()  # multiplied and added
    assert flops(lambda: block(x)) == flops(lambda: plain(block, x)) + shortcut


def test_without_gradients_nothing_is_kept():
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad():
        assert recomputed(torch.exp, x).grad_fn is None
    assert recomputed(torch.exp, x).grad_fn is not None


def test_segmamba_keeps_no_hidden_features_of_the_branch_to_the_skip():
    network, x = build("segmamba")
    stage = network.encoder.stages[0]
    hidden = 2 * 8 * x[:, 0].nbytes // 8  # twice the channels at half the resolution
    assert hidden in kept_sizes(lambda: stage.skip_mlp(stage.downsample(x)))
    assert kept_sizes(lambda: stage(x)).count(hidden) == kept_sizes(
        lambda: stage.tom_layers(stage.gated_conv(stage.downsample(x)))
    ).count(hidden)


@pytest.mark.slow
def test_segmamba_compiles_whole():
    network, x = build("segmamba none")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)

    def gradients(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(x).square().mean(), tuple(network.parameters()))

    torch.testing.assert_close(gradients(compiled), gradients(network))


GRID = (3, 4, 5)
SCAN_LAYERS = ["mamba", "ss3d", "mamba2", "ss3d with mamba2"]


def scan_layer(kind: str) -> tuple[nn.Module, Tensor]:
    block, _, mixer = kind.partition(" with ")
    if block == "ss3d":
        layer = ss3d.SS3D(8, nn.Conv3d, (3, 3, 3), "ss3d_0", mixer=mixer or "mamba")
    else:
        layer = sequence_mixer(kind, 8, nn.Conv3d)
    return layer, torch.randn(2, 60, 8)


def layer_gradients(layer: nn.Module, forward: Callable[..., Tensor], tokens: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(forward(tokens, GRID).float().square().sum(), tuple(layer.parameters()))


def keep_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (mamba, mamba2, ss3d):
        monkeypatch.setattr(module, "recomputed_but_for_scans", lambda function, *inputs: function(*inputs))


@pytest.mark.parametrize(
    ("kind", "scan", "convolutions"), [("mamba", "directional_scan", 1), ("mamba2", "directional_ssd", 2)]
)
def test_a_scan_is_not_computed_again_but_what_it_reads_is(kind, scan, convolutions):
    layer, tokens = scan_layer(kind)
    with OperatorCalls() as calls:
        layer_gradients(layer, layer, tokens)
    expected = {scan: 1, f"{scan}_backward": 1}
    assert calls.counts == expected | {"causal_conv1d": 2 * convolutions, "causal_conv1d_backward": convolutions}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", SCAN_LAYERS)
def test_around_a_scan_gradients_are_the_plain_ones_to_the_last_bit(kind, dtype, monkeypatch):
    layer, tokens = scan_layer(kind)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        actual = layer_gradients(layer, layer, tokens)
        keep_all(monkeypatch)
        expected = layer_gradients(layer, layer, tokens)
    assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("kind", ["mamba", "ss3d"])
def test_around_a_scan_nothing_of_every_direction_is_kept(kind, monkeypatch):
    layer, tokens = scan_layer(kind)
    directions = {"mamba": 3 * 2, "ss3d": 8}[kind]  # Mamba's inner width is twice the tokens'
    step_sizes = directions * tokens.nbytes
    assert step_sizes not in kept_sizes(lambda: layer(tokens, GRID))
    keep_all(monkeypatch)
    assert step_sizes in kept_sizes(lambda: layer(tokens, GRID))


@pytest.mark.parametrize("kind", SCAN_LAYERS)
def test_a_layer_with_a_scan_compiles_whole(kind):
    layer, tokens = scan_layer(kind)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(layer_gradients(layer, compiled, tokens), layer_gradients(layer, layer, tokens))


@pytest.mark.parametrize("kind", SCAN_LAYERS)
def test_around_a_scan_autocast_may_have_cast_the_weights_before(kind):
    layer, tokens = scan_layer(kind)
    with torch.autocast("cpu", torch.bfloat16):
        gradients = layer_gradients(layer, lambda *inputs: layer(*inputs) + layer(*inputs), tokens)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_large_grids_go_through_a_mamba_layer_sample_by_sample(monkeypatch):
    layer, tokens = scan_layer("mamba")
    expected = layer(tokens, GRID), *layer_gradients(layer, layer, tokens)
    monkeypatch.setattr(mamba.DirectionalMamba, "_one_by_one", lambda self, tokens: True)
    with OperatorCalls() as calls:
        actual = layer(tokens, GRID), *layer_gradients(layer, layer, tokens)
    assert calls.counts["directional_scan"] == 2 * 2 and calls.counts["directional_scan_backward"] == 2
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_training_on_a_gpu_goes_sample_by_sample(monkeypatch):
    monkeypatch.setattr(gated, "_LARGE", 60 * 32)
    layer, tokens = scan_layer("mamba")
    assert not layer._one_by_one(tokens)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:  # a GPU's memory is counted on fake tensors
        fake = mode.from_tensor(tokens)
        assert layer._one_by_one(fake)
        assert not layer._one_by_one(fake[:, 1:])
        assert not layer._one_by_one(fake[:1])
        assert not layer.eval()._one_by_one(fake)
