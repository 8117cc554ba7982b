"""What keeps self-distillation from depending on its hyper-parameters and from following a bad teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Ramp:
    """Share of the full distillation weight in use after a share ``t`` of the training.

    ``0`` for ``t < warmup``, then ``exp(-5 (1 - u)^2)`` with ``u = (t - warmup) / ramp``, then ``1``: the ramp of
    Laine & Aila (ICLR 2017, arXiv 1610.02242), in shares of the training so that short ones ramp too.

    Args:
        warmup: share of the training without distillation.
        ramp: share of the training over which it grows.
    """

    warmup: float
    ramp: float

    def __call__(self, progress: float) -> float:
        if progress < self.warmup:
            return 0.0
        if progress >= self.warmup + self.ramp:
            return 1.0
        return math.exp(-5 * (1 - (progress - self.warmup) / self.ramp) ** 2)


def standardised(logits: torch.Tensor) -> torch.Tensor:
    """Standardise logits of teacher or student over the classes (dim 1): ``(z - mean_c z) / (std_c z + 1e-7)``.

    Sun et al., "Logit Standardization in Knowledge Distillation", CVPR 2024. Teacher and student then agree when their
    logits do up to shift and scale, so that one temperature suits both.
    """
    # no gradient of the root where all classes are equal
    deviation = logits.var(1, keepdim=True).clamp_min(1e-12).sqrt()
    return (logits - logits.mean(1, keepdim=True)) / (deviation + 1e-7)


class UncertaintyWeights(nn.Module):
    """Learned weights of loss terms: ``sum_i share_i * ((L_i + 0.01) / (2 exp(s_i)) + s_i / 2)``.

    Kendall, Gal & Cipolla, CVPR 2018 (arXiv 1705.07115), with ``s_i`` the log variance of term ``i``. Without
    ``s_i / 2`` all weights would fall to 0. The terms must not be negative, or ``s_i`` falls without bound; the 0.01,
    added here, keeps it from doing so for a term that a closed gate makes 0: no weight settles above 50.

    Args:
        weights: the weights ``1 / (2 exp(s_i))`` to start from, all positive.
    """

    _FLOOR = 0.01

    def __init__(self, weights: Sequence[float]):
        super().__init__()
        self.log_variances = nn.Parameter(-(2 * torch.tensor(weights, dtype=torch.float32)).log())

    def forward(self, terms: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        """Add up ``terms`` with their ``shares``, both float ``(n,)``; returns a scalar."""
        return (shares * ((terms + self._FLOOR) * (-self.log_variances).exp() + self.log_variances) / 2).sum()


class ClassBrake:
    """Switches distillation off for the classes in which the teacher is worse than the student.

    Per student and class, ``braked = EMA(Dice_T) < EMA(Dice_s)`` on the training batches of the epochs so far, with the
    decay 0.9 of nnU-Net's pseudo Dice; a rule chosen here. A class not seen yet is not braked, the background never:
    its Dice is close to 1 for both, and it is most voxels.

    Args:
        students: how many lower-resolution heads learn.
        classes: output channels of a head.
        foreground: those of them that may be braked.
        device: of ``braked``.

    Attributes:
        braked: bool ``(students, classes)``, valid until the next ``update``.
    """

    _DECAY = 0.9

    def __init__(self, students: int, classes: int, foreground: slice, device: torch.device):
        self._foreground = foreground
        self._dice = torch.full((students, 2, classes), torch.nan)
        self.braked = torch.zeros(students, classes, dtype=torch.bool, device=device)

    def update(self, dice: torch.Tensor) -> None:
        """Take in an epoch's ``dice``: float ``(students, 2, classes)``, teacher first; NaN for an absent class."""
        average = self._DECAY * self._dice + (1 - self._DECAY) * dice
        average = torch.where(self._dice.isnan(), dice, average)
        self._set(torch.where(dice.isnan(), self._dice, average))

    def _set(self, dice: torch.Tensor) -> None:
        self._dice = dice
        worse = dice[:, 0] < dice[:, 1]  # False for NaN
        self.braked[:, self._foreground] = worse[:, self._foreground].to(self.braked.device)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"dice": self._dice}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._set(state["dice"].to("cpu", copy=True))
