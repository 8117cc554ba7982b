"""Gates: how far a voxel may teach, from what teacher and student say about its label.

A teacher that is still learning is often wrong, and its soft labels pass its errors on. Every gate takes the kind of
labels, the probabilities of teacher and student at temperature 1 and the truth (see ``label_kinds``), and returns float
``(batch, decisions, *grid)`` in [0, 1].
"""

from __future__ import annotations

import torch

from .label_kinds import LabelKind

_TINY = 1e-8  # keeps the advantage defined where both give the label a probability of 0


def no_gate(kind: LabelKind, teacher: torch.Tensor, student: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Every voxel teaches fully: ``g = 1``."""
    return torch.ones_like(kind.likelihood(teacher, truth))


def correctness_gate(
    kind: LabelKind, teacher: torch.Tensor, student: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    """Only voxels teach at which the teacher is right: ``g = 1[prediction of p_T = y]``.

    Filtering wrong teacher knowledge has been proposed before (arXiv 2412.09874); this hard form is chosen here.
    """
    return kind.agree(kind.decisions(teacher), truth).to(teacher.dtype)


def confidence_gate(kind: LabelKind, teacher: torch.Tensor, student: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Teacher and student share the voxel: ``g = sigmoid(CE(p_s, y) - CE(p_T, y))``.

    With ``CE = -log p(y)`` this is ``p_T(y) / (p_T(y) + p_s(y))``, computed in that form: the confidence-aware weight
    of CA-MKD (Zhang et al., ICASSP 2022, arXiv 2201.00007) for the two sources teacher and student. It is one half
    where both are equally wrong, so a teacher that has learned nothing yet still holds the student back.
    """
    teacher_likelihood, student_likelihood = kind.likelihood(teacher, truth), kind.likelihood(student, truth)
    return (teacher_likelihood + _TINY) / (teacher_likelihood + student_likelihood + 2 * _TINY)


def advantage_gate(kind: LabelKind, teacher: torch.Tensor, student: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """A voxel teaches only as far as the teacher beats the student.

    ``g = max(0, (p_T(y) - p_s(y)) / (p_T(y) + p_s(y))) = max(0, tanh((CE(p_s, y) - CE(p_T, y)) / 2))``: what
    ``confidence_gate`` gives above one half, stretched to [0, 1]. Chosen here.
    """
    return (2 * confidence_gate(kind, teacher, student, truth) - 1).clamp_min(0)


GATES = {"none": no_gate, "correct": correctness_gate, "confidence": confidence_gate, "advantage": advantage_gate}
