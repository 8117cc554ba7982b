"""What happened in self-distillation over an epoch, summed on the device and read once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class EpochMeans:
    """Means over an epoch, on the CPU.

    Attributes:
        segmentation: float ``(scales,)``, the segmentation loss of every scale, unweighted.
        distillation: float ``(students,)``, the distillation loss of every student, unweighted.
        gated: float ``(students,)``, share of the valid decisions that gate and brake keep from teaching, the mean of
            ``1 - g``.
        dice: float ``(students, 2, classes)``, Dice of teacher and student against the labels of the student's scale,
            all training voxels of the epoch together; NaN for an absent class.
    """

    segmentation: torch.Tensor
    distillation: torch.Tensor
    gated: torch.Tensor
    dice: torch.Tensor


class EpochStatistics:
    """Sums over the iterations of an epoch. Adding never waits for the device.

    Args:
        scales, students, classes: what the sums are about.
        device: where they are kept.
    """

    def __init__(self, scales: int, students: int, classes: int, device: torch.device):
        self._losses = torch.zeros(1 + scales + students, device=device)
        self._gated = torch.zeros(students, 2, device=device)
        self._overlaps = torch.zeros(students, 2, 3, classes, dtype=torch.int64, device=device)
        self._scales = scales

    def add_losses(self, segmentation: list[torch.Tensor], distillation: list[torch.Tensor]) -> None:
        """Add the losses of one iteration, scalars, per scale and per student."""
        count = self._losses.new_ones(())
        self._losses += torch.stack([count, *(loss.detach().float() for loss in (*segmentation, *distillation))])

    def add_gate(self, student: int, gate: torch.Tensor, valid: torch.Tensor) -> None:
        """Add a gate: ``gate`` is float and ``valid`` bool, both ``(batch, decisions, *grid)``."""
        self._gated[student] += torch.stack([((1 - gate) * valid).sum(), valid.sum()])

    def add_decisions(
        self, student: int, teacher: torch.Tensor, own: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor
    ) -> None:
        """Add predictions of the teacher and of the student itself, bool ``(batch, classes, *grid)`` as ``truth``."""
        axes = (0, *range(2, truth.ndim))
        truth = truth & valid
        size = truth.sum(axes)
        for source, predicted in enumerate((teacher, own)):
            both, voxels = (predicted & truth).sum(axes), (predicted & valid).sum(axes)
            self._overlaps[student, source] += torch.stack([both, voxels, size])

    def sum_over_processes(self) -> None:
        """Add up the sums of all processes of a distributed training; every process must call it."""
        for sums in (self._losses, self._gated, self._overlaps):
            distributed.all_reduce(sums)

    def read(self) -> EpochMeans:
        """Read the means since the last ``read``, and start the next epoch."""
        losses, gate, overlaps = (sums.to("cpu", copy=True) for sums in (self._losses, self._gated, self._overlaps))
        for sums in (self._losses, self._gated, self._overlaps):
            sums.zero_()
        count, segmentation, distillation = losses.split([1, self._scales, len(gate)])
        gated, valid = gate.unbind(1)
        both, predicted, size = overlaps.unbind(2)
        return EpochMeans(segmentation / count, distillation / count, gated / valid, 2 * both / (predicted + size))
