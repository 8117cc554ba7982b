"""The two kinds of labels nnU-Net trains on: exclusive classes (softmax) and overlapping regions (sigmoid).

Shapes: logits and probabilities ``(batch, classes, *grid)``; targets as nnU-Net's loaders make them. What is one number
per decision has ``(batch, decisions, *grid)``: one decision per voxel for exclusive classes, one per region otherwise.
"""

from __future__ import annotations

import torch
from torch.nn import functional


class ExclusiveClasses:
    """One label per voxel. Targets ``(batch, 1, *grid)``.

    Args:
        ignore_label: the label of voxels that are not annotated.
    """

    foreground = slice(1, None)

    def __init__(self, ignore_label: int | None = None):
        self.ignore_label = ignore_label

    def valid(self, target: torch.Tensor) -> torch.Tensor:
        """Find the voxels that count: bool ``(batch, 1, *grid)``, False where the target says to ignore."""
        if self.ignore_label is None:
            return torch.ones_like(target, dtype=torch.bool)
        return target != self.ignore_label

    def truth(self, target: torch.Tensor, classes: int) -> torch.Tensor:
        """Say which classes a voxel has: bool ``(batch, classes, *grid)``; ignored voxels count as background."""
        labels = torch.where(self.valid(target), target, 0).long()
        one_hot = torch.zeros(len(target), classes, *target.shape[2:], dtype=torch.bool, device=target.device)
        return one_hot.scatter_(1, labels, True)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.softmax(1)

    def decisions(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Find the classes predicted: bool, shaped as ``probabilities``."""
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(
            1, probabilities.argmax(1, keepdim=True), True
        )

    def likelihood(self, probabilities: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Give the probability of the truth, per decision."""
        return (probabilities * truth).sum(1, keepdim=True)

    def agree(self, decisions: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Say per decision whether the prediction equals the truth; bool."""
        return (decisions & truth).any(1, keepdim=True)

    def concerns(self, classes: torch.Tensor, decisions: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Say per decision whether truth or prediction is one of ``classes`` (bool ``(classes,)``); bool."""
        selected = classes.view(-1, *[1] * (truth.ndim - 2))
        return ((decisions | truth) & selected).any(1, keepdim=True)

    def divergence(self, teacher: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
        """Compute ``KL(teacher || softmax(student_logits))`` per voxel; ``teacher`` are probabilities."""
        return (torch.xlogy(teacher, teacher) - teacher * student_logits.log_softmax(1)).sum(1, keepdim=True)


class Regions:
    """Overlapping regions, each on its own. Targets ``(batch, regions, *grid)`` of zeros and ones.

    Args:
        ignore_channel: the target has one more, last, channel that marks voxels that are not annotated.
    """

    foreground = slice(None)

    def __init__(self, ignore_channel: bool = False):
        self.ignore_channel = ignore_channel

    def valid(self, target: torch.Tensor) -> torch.Tensor:
        """Find the voxels that count: bool ``(batch, 1, *grid)``, False where the target says to ignore."""
        if self.ignore_channel:
            return ~target[:, -1:].bool()
        return torch.ones_like(target[:, :1], dtype=torch.bool)

    def truth(self, target: torch.Tensor, classes: int) -> torch.Tensor:
        """Say which regions a voxel belongs to: bool ``(batch, classes, *grid)``."""
        return target[:, :classes].bool()

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.sigmoid()

    def decisions(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Find the regions predicted: bool, shaped as ``probabilities``."""
        return probabilities > 0.5

    def likelihood(self, probabilities: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Give the probability of the truth, per decision."""
        return torch.where(truth, probabilities, 1 - probabilities)

    def agree(self, decisions: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Say per decision whether the prediction equals the truth; bool."""
        return decisions == truth

    def concerns(self, classes: torch.Tensor, decisions: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """Say per decision whether it is about one of ``classes`` (bool ``(classes,)``); bool."""
        return classes.view(-1, *[1] * (truth.ndim - 2)).expand_as(truth)

    def divergence(self, teacher: torch.Tensor, student_logits: torch.Tensor) -> torch.Tensor:
        """Compute Bernoulli's KL per voxel and region; ``teacher`` are probabilities."""
        cross_entropy = functional.binary_cross_entropy_with_logits(student_logits, teacher, reduction="none")
        return cross_entropy + torch.xlogy(teacher, teacher) + torch.xlogy(1 - teacher, 1 - teacher)


LabelKind = ExclusiveClasses | Regions
