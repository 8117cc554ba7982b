"""What UNETR's residual block and SegMamba keep for the backward pass; what they compute again is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_networks import build
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from nnunetv2_mamba.architectures.blocks.half_precision import saturate_layers, saturated
from nnunetv2_mamba.architectures.blocks.recompute import recomputed
from nnunetv2_mamba.architectures.blocks.unetr import UnetrResBlock

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
    """Bytes of every storage that autograd keeps, inputs and weights included."""
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return [storage.nbytes() for storage in kept.values()]


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


def test_segmamba_compiles_whole():
    network, x = build("segmamba none")
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)

    def gradients(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(forward(x).square().mean(), tuple(network.parameters()))

    torch.testing.assert_close(gradients(compiled), gradients(network))
