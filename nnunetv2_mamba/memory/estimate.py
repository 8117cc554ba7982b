"""Peak memory of a training step and of prediction, traced with tensors that have shapes but no data.

Nothing is computed and no GPU is needed: every allocation of a whole step is followed under ``FakeTensorMode``. The
step is traced on a fake CPU, because torch cannot run a backward pass on a fake GPU where there is no real one;
autocast's choices are made those of CUDA.

Not in it, since it never passes through torch's operators: workspace of cuDNN, scratch memory inside the scans, the
CUDA context, and what the caching allocator keeps in reserve. ``usable_bytes`` leaves room for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from .tracker import AllocationTracker
from .usage import GIB

_CONTEXT = 0.5 * GIB  # of CUDA and its libraries
_SHARE = 0.9  # of all; workspaces and fragmentation take the rest

_OPTIMIZERS = {
    "sgd": partial(torch.optim.SGD, lr=1e-2, momentum=0.99, nesterov=True, fused=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3, fused=True),
}
_LOSS = DC_and_CE_loss(
    {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}, {}, dice_class=MemoryEfficientSoftDiceLoss
)
# What autocast computes in fp32 on CUDA but not on a CPU, as far as networks and losses use it.
_FP32_ON_CUDA = {
    nn.functional.group_norm, nn.functional.layer_norm, nn.functional.softmax, nn.functional.log_softmax,
    nn.functional.cross_entropy, nn.functional.softplus, torch.softmax, torch.log_softmax, torch.Tensor.softmax,
    torch.exp, torch.Tensor.exp, torch.log, torch.Tensor.log, torch.pow, torch.Tensor.pow,
}  # fmt: skip


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes in use at the moment when most are in use, by what they hold.

    Attributes:
        parameters: weights and buffers.
        gradients: of the weights.
        optimizer: the optimiser's state.
        activations: made in the forward pass and the loss, most of it kept for the backward pass; the input too.
        temporary: made and dropped in the backward pass or the optimiser's step.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer + self.activations + self.temporary

    @property
    def fixed(self) -> int:
        """What does not depend on patch and batch, at least."""
        return self.parameters + self.optimizer


def usable_bytes(gpu_memory: float) -> float:
    """Compute what a plan may use of a GPU with ``gpu_memory`` GiB: 90 % of it less 0.5 GiB."""
    return _SHARE * gpu_memory * GIB - _CONTEXT


def training_memory(
    build: Callable[[], nn.Module],
    input_shape: Sequence[int],
    optimizer: str = "sgd",
    autocast: torch.dtype | None = torch.float16,
) -> MemoryEstimate:
    """Trace the peak of a training step: forward pass, Dice and cross-entropy loss, backward pass, optimiser's step.

    Args:
        build: makes the network, on no device in particular; it is called under fake tensors.
        input_shape: (batch, channels, *patch).
        optimizer: ``"sgd"`` (Nesterov momentum) or ``"adamw"``.
        autocast: type of the mixed precision; None for fp32.

    Raises:
        ValueError: for an unknown optimiser, and what the network raises for an input that does not fit.
    """
    if optimizer not in _OPTIMIZERS:
        raise ValueError(f"optimizer must be one of {', '.join(_OPTIMIZERS)}, got {optimizer!r}")
    with FakeTensorMode():
        network = build().train()
        optimiser = _OPTIMIZERS[optimizer](network.parameters())
        tracker = AllocationTracker()
        tracker.count([*network.parameters(), *network.buffers()], "parameters")
        tracker.count_gradients(network.parameters())
        with tracker:
            _make_state(optimiser, tracker)
            loss = training_loss(network, torch.empty(*input_shape), autocast)
            tracker.kind = "temporary"
            loss.backward()
            optimiser.step()
        return MemoryEstimate(**tracker.peak)


def inference_memory(
    build: Callable[[], nn.Module],
    input_shape: Sequence[int],
    autocast: torch.dtype | None = torch.float16,
    around: AbstractContextManager | None = None,
) -> MemoryEstimate:
    """Trace the peak of a forward pass without gradients. See ``training_memory`` for the other arguments.

    What nnU-Net's sliding window keeps for a whole image is not in it (see docs/planning.md).

    Args:
        around: entered around the pass, such as a counter of its operations.
    """
    with FakeTensorMode():
        network = build().eval()
        tracker = AllocationTracker()
        tracker.count([*network.parameters(), *network.buffers()], "parameters")
        with around or nullcontext(), tracker, torch.no_grad(), autocast_as_on_cuda(autocast):
            network(torch.empty(*input_shape))
        return MemoryEstimate(**tracker.peak)


def plan_memory(
    plans: PlansManager, configuration: str, dataset_json: dict, optimizer: str = "sgd"
) -> tuple[MemoryEstimate, MemoryEstimate]:
    """Trace training and inference (one patch) of a configuration of any plans file, nnU-Net's own included."""
    manager = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, manager, dataset_json)
    architecture = manager.configuration["architecture"]
    classes = plans.get_label_manager(dataset_json).num_segmentation_heads
    return (
        architecture_memory(architecture, (manager.batch_size, channels, *manager.patch_size), classes, optimizer),
        inference_memory(_builder(architecture, channels, classes, False), (1, channels, *manager.patch_size)),
    )


def architecture_memory(
    architecture: dict[str, Any], input_shape: Sequence[int], classes: int, optimizer: str
) -> MemoryEstimate:
    """Return ``training_memory`` of the network that the stock trainer builds from an ``architecture``; cached."""
    text = json.dumps(architecture, default=int)  # numpy's numbers; hashable
    return _architecture_memory(text, tuple(int(size) for size in input_shape), classes, optimizer)


@cache
def _architecture_memory(text: str, input_shape: tuple[int, ...], classes: int, optimizer: str) -> MemoryEstimate:
    return training_memory(_builder(json.loads(text), input_shape[1], classes, True), input_shape, optimizer)


def _builder(
    architecture: dict[str, Any], channels: int, classes: int, deep_supervision: bool
) -> Callable[[], nn.Module]:
    return partial(
        get_network_from_plans,
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        channels,
        classes,
        allow_init=False,
        deep_supervision=deep_supervision,
    )


def training_loss(network: nn.Module, image: torch.Tensor, autocast: torch.dtype | None) -> torch.Tensor:
    """Compute nnU-Net's loss of a pass, against labels of background; ``image`` is (batch, channels, *patch)."""
    with autocast_as_on_cuda(autocast):
        outputs = network(image)
        outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
        # By resolution, the highest first; the logits of a fused head, the last output, share the first one's labels.
        labels = {
            output.shape[2:]: image.new_zeros((len(image), 1, *output.shape[2:]), dtype=torch.int16)
            for output in outputs
        }
        scales = list(labels)
        trained = sorted(outputs, key=lambda output: scales.index(output.shape[2:]))
        if len(trained) > 1:
            trained.pop()  # nnU-Net does not train on the lowest resolution
        return sum(
            0.5 ** scales.index(output.shape[2:]) * _LOSS(output, labels[output.shape[2:]]) for output in trained
        )


@contextmanager
def autocast_as_on_cuda(dtype: torch.dtype | None) -> Iterator[None]:
    """Autocast on the CPU with CUDA's choice of what runs in fp32; do nothing for None."""
    if dtype is None:
        yield
        return
    with torch.autocast("cpu", dtype), _CastToFp32():
        yield


class _CastToFp32(TorchFunctionMode):
    """Casts the inputs of ``_FP32_ON_CUDA`` where autocast is on."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _FP32_ON_CUDA and torch.is_autocast_enabled("cpu"):
            args = tree_map_only(torch.Tensor, lambda t: t.float() if t.is_floating_point() else t, args)
        return func(*args, **(kwargs or {}))


def _make_state(optimizer: torch.optim.Optimizer, tracker: AllocationTracker) -> None:
    """Let the optimiser allocate its state, which from the second step on exists throughout."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    states = [value for state in optimizer.state.values() for value in state.values()]
    tracker.count([value for value in states if isinstance(value, torch.Tensor)], "optimizer")
    tracker.peak = dict(tracker.used)
