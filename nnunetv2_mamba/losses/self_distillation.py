"""Deep supervision with multi-scale self-distillation: the best prediction of the network teaches its coarser heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from .distillation_gates import GATES
from .distillation_safeguards import ClassBrake, Ramp, standardised
from .distillation_statistics import EpochMeans, EpochStatistics
from .label_kinds import ExclusiveClasses, LabelKind

TEACHERS = ("final", "fused", "ema")
# Shares of the total weight below this are nnU-Net's way to weigh a head 0 (1e-6 in distributed trainings).
_NEGLIGIBLE = 1e-5


def students_of(weights: Sequence[float]) -> list[int]:
    """Find the scales that learn from the teacher: all below full resolution that the segmentation loss weighs."""
    return [scale for scale in range(1, len(weights)) if weights[scale] > _NEGLIGIBLE * sum(weights)]


class SelfDistillationLoss(nn.Module):
    """nnU-Net's loss on every scale plus distillation from a detached teacher to the lower-resolution heads.

    ``sum_s w_s L_seg(z_s, y_s) + lambda(t) sum_{s in students} k_s KD_s`` with ``k_s = w_s / sum_{students} w_s`` and

        KD_s = tau^2 * mean over valid voxels of g_s * KL(p_T || p_s)
        p_s = softmax(z_s / tau),   p_T = softmax(z_T / tau) averaged over the voxels of scale s

    after Hinton et al. 2015 (arXiv 1503.02531; KL with temperature and ``tau^2``), Zhang et al., ICCV 2019 (the deepest
    classifier teaches the shallower ones, "be your own teacher") and Banerjee et al. 2023 (arXiv 2306.03271; the same
    for 3D U-Nets). Probabilities are averaged, not logits: a mean of distributions is a distribution. The mean runs
    over all valid voxels, so that a closed gate lowers the term. For regions the KL is Bernoulli's, averaged over
    regions. The distillation is computed in fp32 with autocast off, and only where gradients are enabled: nnU-Net's
    validation sees nnU-Net's own loss.

    Args:
        segmentation_loss: nnU-Net's, for one scale.
        weights: its weight per scale, highest resolution first.
        kind: exclusive classes or regions.
        classes: output channels of a head.
        device: where the loss is computed.
        teacher: ``"final"`` (full-resolution head), ``"fused"`` (one more, last, entry of the outputs at full
            resolution, which gets its own segmentation loss of weight ``w_0``) or ``"ema"`` (logits given with every
            call).
        distillation_weight: ``lambda``; 0 for deep supervision alone.
        temperature: ``tau``.
        gate: a key of ``GATES``.
        ramp: ``lambda(t) / lambda``.
        brake: whether classes in which the teacher is worse are not taught (``ClassBrake``).
        standardise_logits: see ``standardised``; needs three exclusive classes or more.
        uncertainty: learned weights in place of ``lambda k_s``: a module called as ``UncertaintyWeights``, with one
            term for the segmentation and one per student.

    Attributes:
        students: the scales that learn; empty without distillation.

    Raises:
        ValueError: for an unknown teacher or gate, or logits that cannot be standardised.
    """

    def __init__(
        self,
        segmentation_loss: nn.Module,
        weights: Sequence[float],
        kind: LabelKind,
        classes: int,
        device: torch.device,
        *,
        teacher: str = "final",
        distillation_weight: float = 0.5,
        temperature: float = 3.0,
        gate: str = "advantage",
        ramp: Ramp = Ramp(0.05, 0.1),  # noqa: B008  (frozen)
        brake: bool = True,
        standardise_logits: bool = False,
        uncertainty: nn.Module | None = None,
    ):
        super().__init__()
        if teacher not in TEACHERS:
            raise ValueError(f"teacher must be one of {', '.join(TEACHERS)}, got {teacher!r}")
        if gate not in GATES:
            raise ValueError(f"gate must be one of {', '.join(GATES)}, got {gate!r}")
        if standardise_logits and not (isinstance(kind, ExclusiveClasses) and classes > 2):
            raise ValueError(
                "standardise_logits needs labels of three exclusive classes or more: standardised over fewer, logits "
                "hold only their sign; leave it off for this data set"
            )
        self.segmentation_loss = segmentation_loss
        self.weights = [float(weight) for weight in weights]
        self.kind, self.teacher, self.temperature = kind, teacher, temperature
        self.distillation_weight, self.ramp = distillation_weight, ramp
        self.gate = GATES[gate]
        self.transform = standardised if standardise_logits else nn.Identity()
        self.students = students_of(weights) if distillation_weight > 0 else []
        self.supervised = [scale for scale, weight in enumerate(self.weights) if weight]
        self.statistics = EpochStatistics(len(self.supervised), len(self.students), classes, device)
        self.brake = ClassBrake(len(self.students), classes, kind.foreground, device) if brake else None
        self.uncertainty = uncertainty if self.students else None

    def weight_at(self, progress: float) -> float:
        """Give ``lambda(t)`` after a share ``progress`` of the training."""
        return self.distillation_weight * self.ramp(progress)

    def forward(
        self,
        outputs: torch.Tensor | Sequence[torch.Tensor],
        target: torch.Tensor | Sequence[torch.Tensor],
        teacher_logits: torch.Tensor | None = None,
        progress: float = 1.0,
    ) -> torch.Tensor:
        """Compute the loss.

        Args:
            outputs: logits ``(batch, classes, *grid)`` per scale, highest resolution first, then the fused logits if
                they are the teacher; or a tensor, without deep supervision.
            target: nnU-Net's, one per scale.
            teacher_logits: at full resolution, for the teacher ``"ema"``.
            progress: share of the training that is done, in [0, 1].

        Returns:
            The loss, a scalar.
        """
        if isinstance(outputs, torch.Tensor):
            outputs, target = [outputs], [target]
        losses = [self.segmentation_loss(outputs[scale], target[scale]) for scale in self.supervised]
        total = sum(self.weights[scale] * loss for scale, loss in zip(self.supervised, losses, strict=True))
        if not torch.is_grad_enabled():
            return total
        if self.teacher == "fused":
            total = total + self.weights[0] * self.segmentation_loss(outputs[-1], target[0])
        terms = self._distillation(outputs, target, teacher_logits, progress) if self.students else []
        self.statistics.add_losses(losses, terms)
        return self._combine(total, terms, progress) if terms else total

    def end_epoch(self, distributed: bool) -> EpochMeans:
        """Read the statistics of the epoch, of all processes if ``distributed``, and set the brake for the next."""
        if distributed:
            self.statistics.sum_over_processes()
        means = self.statistics.read()
        if self.brake is not None:
            self.brake.update(means.dice)
        return means

    def _combine(self, segmentation: torch.Tensor, terms: list[torch.Tensor], progress: float) -> torch.Tensor:
        if self.uncertainty is not None:
            # nnU-Net's Dice term is -Dice: without it the segmentation term cannot be negative
            weight = sum(self.weights) + (self.weights[0] if self.teacher == "fused" else 0)
            lowest = -self.segmentation_loss.weight_dice * weight
            all_terms = torch.stack([segmentation.float() - lowest, *terms])
            shares = torch.full_like(all_terms, self.ramp(progress))
            shares[0] = 1
            return self.uncertainty(all_terms, shares)
        distillation_weight = self.weight_at(progress)
        if distillation_weight == 0:
            return segmentation
        weights = [self.weights[scale] for scale in self.students]
        distillation = sum(weight * term for weight, term in zip(weights, terms, strict=True)) / sum(weights)
        return segmentation + distillation_weight * distillation

    def _distillation(
        self,
        outputs: Sequence[torch.Tensor],
        target: Sequence[torch.Tensor],
        teacher_logits: torch.Tensor | None,
        progress: float,
    ) -> list[torch.Tensor]:
        """Compute ``KD_s`` of every student, without gradient while the ramp is 0, for the statistics alone."""
        if self.teacher != "ema":
            teacher_logits = outputs[0 if self.teacher == "final" else -1]
        elif teacher_logits is None:
            raise ValueError('teacher="ema" needs teacher_logits with every call of the loss')
        learning = self.weight_at(progress) > 0
        with torch.autocast(teacher_logits.device.type, enabled=False):
            with torch.no_grad():
                teacher_logits = teacher_logits.detach().float()
                plain = self.kind.probabilities(teacher_logits)
                softened = self.kind.probabilities(self.transform(teacher_logits) / self.temperature)
            with torch.set_grad_enabled(learning):
                return [
                    self._term(index, outputs[scale].float(), target[scale], plain, softened)
                    for index, scale in enumerate(self.students)
                ]

    def _term(
        self, index: int, logits: torch.Tensor, target: torch.Tensor, plain: torch.Tensor, softened: torch.Tensor
    ) -> torch.Tensor:
        """Compute ``KD_s``; ``plain`` and ``softened``: the teacher at full resolution, temperature 1 and ``tau``."""
        with torch.no_grad():
            plain, softened = (functional.interpolate(p, logits.shape[2:], mode="area") for p in (plain, softened))
            truth, valid = self.kind.truth(target, logits.shape[1]), self.kind.valid(target)
            own = self.kind.probabilities(logits)
            gate = self.gate(self.kind, plain, own, truth)
            decisions = self.kind.decisions(plain)
            if self.brake is not None:
                gate = gate * ~self.kind.concerns(self.brake.braked[index], decisions, truth)
            self.statistics.add_decisions(index, decisions, self.kind.decisions(own), truth, valid)
            valid = valid.expand_as(gate)
            self.statistics.add_gate(index, gate, valid)
        divergence = self.kind.divergence(softened, self.transform(logits) / self.temperature)
        return self.temperature**2 * (gate * valid * divergence).sum() / valid.sum().clamp_min(1)
