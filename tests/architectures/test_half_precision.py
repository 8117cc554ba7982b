"""No Inf and no NaN in fp16, however large the activations are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from registered_networks import slow_if_of_monai
from test_networks import NETWORKS, build
from torch import nn

from nnunetv2_mamba.architectures.blocks.half_precision import LARGEST, saturate_layers, saturated


def sum_as_on_cuda(network: nn.Module) -> None:
    """Where kernels overlap, torch's transposed convolution on a CPU sums in fp16, and Inf and -Inf give NaN."""
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose3d) and module.kernel_size != module.stride:
            module.forward = partial(in_fp32, module.forward)


def in_fp32(forward: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", enabled=False):
        return forward(x.float()).half()


def outputs_of(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.autocast("cpu", torch.float16):
        outputs = network(x)
    return outputs if isinstance(outputs, list) else [outputs]


@pytest.mark.parametrize(
    "name",
    slow_if_of_monai(NETWORKS, slow=lambda name: name.endswith((" none", " conv"))),
)
def test_logits_are_finite_with_activations_beyond_the_range(name):
    network, x = build(name, deep_supervision=True)
    sum_as_on_cuda(network)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
                module.weight *= 100
    for output in outputs_of(network, 1e4 * x):
        assert output.dtype is torch.float16
        assert torch.isfinite(output).all()


def test_only_fp16_is_changed_and_nan_stays():
    values = torch.tensor([torch.inf, -torch.inf, torch.nan, 1e5, 2.0])
    assert saturated(values) is values and values[0] == torch.inf
    assert saturated(values.bfloat16())[0] == torch.inf
    expected = torch.tensor([LARGEST, -LARGEST, torch.nan, LARGEST, 2.0], dtype=torch.float16)
    torch.testing.assert_close(saturated(values.half()), expected, equal_nan=True, rtol=0, atol=0)


class Sum(nn.Module):
    """A residual sum and a convolution that leave the range of fp16, and a norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.InstanceNorm2d(3)
        saturate_layers(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(saturated(self.conv(x) + x))


def test_the_gradient_passes_compiled_and_not():
    module = Sum()
    with torch.no_grad():
        module.conv.weight *= 20
    x = (2e4 * torch.randn(1, 3, 8, 8)).requires_grad_()

    def output_and_gradients(forward):
        (output,) = outputs_of(forward, x)
        return output, *torch.autograd.grad(output.float().square().sum(), (x, *module.parameters()))

    eager = output_and_gradients(module)
    assert all(torch.isfinite(t).all() for t in eager)
    assert eager[1].abs().max() > 0
    compiled = output_and_gradients(torch.compile(module, backend="aot_eager", fullgraph=True))
    torch.testing.assert_close(compiled, eager)


def test_the_gradient_is_that_of_the_identity():
    x = torch.tensor([1e4, 6e4], dtype=torch.float16, requires_grad=True)
    y = saturated(2 * x)
    assert y.tolist() == [2e4, LARGEST]
    y.sum().backward()
    assert x.grad.tolist() == [2, 2]
