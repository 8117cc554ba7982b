"""A teacher whose weights follow the student's."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def rising_ema(
    decay: float, averaged: list[torch.Tensor], current: list[torch.Tensor], updates: torch.Tensor | int
) -> None:
    """Move the averaged weights towards the current ones, as ``multi_avg_fn`` of ``AveragedModel``.

    The decay is ``min(decay, (1 + n) / (10 + n))`` at update ``n``. It passes 0.99 at update 890 and 0.999 at
    8990, so that the weights of the beginning are soon forgotten in a training of any length (the schedule of
    TensorFlow's ``ExponentialMovingAverage``; Mean Teacher, Tarvainen & Valpola 2017, arXiv 1703.01780, uses 0.99 and
    then 0.999).
    """
    n = int(updates)
    torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))


class EMATeacher:
    """A copy of a network that is never trained but averages its weights, and predicts at full resolution.

    Args:
        student: the network itself, neither wrapped nor compiled, with its deep supervision switch on ``decoder``.
        decay: see ``rising_ema``.
        compiled: whether to run it through ``torch.compile``.
    """

    def __init__(self, student: nn.Module, decay: float, compiled: bool):
        self._average = AveragedModel(student, multi_avg_fn=partial(rising_ema, decay)).requires_grad_(False).eval()
        network = self._average.module
        network.decoder.deep_supervision = False
        self._run = torch.compile(network) if compiled else network

    @torch.no_grad()
    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        """Return logits ``(batch, classes, *grid)``, under the autocast in use."""
        return self._run(data)

    def stop_compiling(self) -> None:
        """Run the network as it is from now on."""
        self._run = self._average.module

    def start(self, student: nn.Module) -> None:
        """Copy the student unless there is an average already: its weights may have been loaded in the meantime."""
        if not self._average.n_averaged:
            self._average.module.load_state_dict(student.state_dict())

    def update(self, student: nn.Module) -> None:
        """Follow the student, after every step of the optimiser; the first update copies it."""
        self._average.update_parameters(student)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._average.load_state_dict(state)
