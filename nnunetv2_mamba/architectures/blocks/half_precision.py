"""No Inf in fp16: what is beyond its range becomes its largest number, or is computed in fp32."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.building_blocks.regularization import DropPath
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

LARGEST = torch.finfo(torch.float16).max


def saturated(x: torch.Tensor) -> torch.Tensor:
    """Return ``x``, changed in place where it is fp16 and infinite; the gradient passes as if it had not been changed.

    Norms make NaN of Inf, and one NaN ends a training or fills a prediction. Sums without a norm after them (residual
    branches) and convolutions of large features leave the range of fp16 first. In place and without a mask for the
    backward pass it costs no memory; ``x`` must be a result that the operation behind it does not keep (sums, products,
    convolutions and casts do not).
    """
    if x.dtype is torch.float16:
        with torch.no_grad():
            x.clamp_(-LARGEST, LARGEST)
    return x


def wide(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in fp32, or in fp64 where it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _saturate_output(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    return saturated(output)


def _saturate_input(module: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (saturated(*args),)


def saturate_inputs(module: nn.Module) -> None:
    """Let ``module`` get a :func:`saturated` input: of an activation after a sum, which it may be computed in place."""
    module.register_forward_pre_hook(_saturate_input)


def saturate_outputs(module: nn.Module) -> None:
    """Let ``module`` give a :func:`saturated` output: a sum."""
    module.register_forward_hook(_saturate_output)


def saturate_blocks(network: nn.Module, block: type[nn.Module]) -> None:
    """Let every ``block`` of ``network``, which ends with a sum, and every layer give :func:`saturated` results."""
    for module in network.modules():
        if isinstance(module, block):
            saturate_outputs(module)
    saturate_layers(network)


def saturate_layers(network: nn.Module) -> None:
    """Let every convolution, linear layer and dropout of ``network`` give a :func:`saturated` result.

    A dropout of rate 0 gives its input back, which the operation before it, such as a softmax, may keep.
    """
    for module in network.modules():
        drops = isinstance(module, _DropoutNd) and module.p > 0
        if drops or isinstance(module, (_ConvNd, nn.Linear, DropPath)):
            module.register_forward_hook(_saturate_output)
