"""NaN and Inf in a training: skip the step, name the layer, give up after a while."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

PATIENCE = 10  # steps in a row


class NonFiniteError(RuntimeError):
    """The training produced nothing but NaN or Inf for ``PATIENCE`` steps."""


class NonFiniteCounter:
    """Counts steps whose gradient was not finite, which are skipped.

    Attributes:
        total, in_a_row: such steps so far.
    """

    def __init__(self) -> None:
        self.total = self.in_a_row = 0

    def count(self, finite: bool) -> None:
        self.in_a_row = 0 if finite else self.in_a_row + 1
        self.total += not finite

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= PATIENCE


def finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())  # in a checkpointed block nothing may be saved for the backward


@contextmanager
def _watch_outputs(network: nn.Module, calls: list[tuple[str, bool]]) -> Iterator[None]:
    """While entered, append (name, output is finite) to ``calls`` for every module of ``network`` that finishes."""

    def note(name: str, module: nn.Module, args: tuple, output: object) -> None:
        calls.append((name, all(finite(leaf) for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor))))

    hooks = [module.register_forward_hook(partial(note, name)) for name, module in network.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def first_non_finite(
    network: nn.Module,
    data: torch.Tensor,
    compute_loss: Callable[[], torch.Tensor],
    named_parameters: Iterable[tuple[str, nn.Parameter]],
) -> str | None:
    """Repeat a step that went wrong and say where NaN or Inf first appeared; None if it did not.

    Modules finish innermost first, so the first bad one is the smallest that produced it. In the backward pass, which
    runs from the output to the input, it is the module whose weights come last in the network among those with a bad
    gradient.

    Args:
        network: not wrapped by DDP or ``torch.compile``.
        data: the input.
        compute_loss: called once, with ``network`` as it is; returns the loss, scaled as in the step.
        named_parameters: all that is trained: the network's, and others such as the loss's own weights.
    """
    calls: list[tuple[str, bool]] = []
    with _watch_outputs(network, calls):
        loss = compute_loss()
    names, parameters = zip(*named_parameters, strict=True)
    # Both passes whatever is found: on several GPUs the sums of a Dice over the batch wait in both for every process.
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)  # unlike backward, runs no hooks of DDP
    if not finite(data):
        return "the input batch (an image holds NaN or Inf; check the raw data and its preprocessing)"
    bad = next((name for name, good in calls if not good), None)
    if bad is not None:
        return f"the output of {bad}, a {type(network.get_submodule(bad)).__name__}"
    if not finite(loss):
        return "the loss, from finite logits"
    bad_gradients = [name for name, g in zip(names, gradients, strict=True) if g is not None and not finite(g)]
    return f"the gradient of {bad_gradients[-1]}" if bad_gradients else None
