"""Inputs of the self-distillation loss, and the loss itself, for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from torch import nn

from nnunetv2_mamba.losses import SelfDistillationLoss
from nnunetv2_mamba.losses.label_kinds import ExclusiveClasses, Regions

CPU = torch.device("cpu")
IGNORE = 3
WEIGHTS = (4 / 7, 2 / 7, 1 / 7, 0.0)
# strides that do not divide, anisotropic, in 2D and 3D; one grid per scale
GRIDS = {2: ((7, 8), (4, 4), (2, 4), (1, 2)), 3: ((5, 6, 4), (5, 3, 2), (3, 2, 2), (1, 1, 1))}


def segmentation_loss(regions: bool, ignore: bool) -> nn.Module:
    """As ``nnUNetTrainer._build_loss`` makes it for one scale."""
    dice = {"batch_dice": False, "smooth": 1e-5, "ddp": False}
    if regions:
        options = {"use_ignore_label": ignore, "dice_class": MemoryEfficientSoftDiceLoss}
        return DC_and_BCE_loss({}, {**dice, "do_bg": True}, **options)
    options = {"ignore_label": IGNORE if ignore else None, "dice_class": MemoryEfficientSoftDiceLoss}
    return DC_and_CE_loss({**dice, "do_bg": False}, {}, **options)


def make_loss(
    regions: bool = False, ignore: bool = False, weights: Sequence[float] = WEIGHTS, classes: int = 3, **options
) -> SelfDistillationLoss:
    """The loss, without brake unless asked for. Called without ``progress`` it is at the end of its ramp."""
    kind = Regions(ignore) if regions else ExclusiveClasses(IGNORE if ignore else None)
    options = {"brake": False, **options}
    return SelfDistillationLoss(segmentation_loss(regions, ignore), weights, kind, classes, CPU, **options)


def make_outputs(dims: int = 3, classes: int = 3, scale: float = 2.0, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = [scale * torch.randn(2, classes, *grid, generator=generator) for grid in GRIDS[dims]]
    return [values.requires_grad_() for values in logits]


def make_target(regions: bool = False, ignore: bool = False, dims: int = 3, classes: int = 3) -> list[torch.Tensor]:
    """int16 labels, or bool regions; about a quarter of the voxels ignored if ``ignore``."""
    generator = torch.Generator().manual_seed(1)
    target = []
    for grid in GRIDS[dims]:
        if regions:
            target.append(torch.rand(2, classes + ignore, *grid, generator=generator) < 0.3)
        else:
            labels = torch.randint(0, IGNORE + ignore, (2, 1, *grid), generator=generator)
            target.append(labels.to(torch.int16))
    return target


def distillation(loss: SelfDistillationLoss, outputs, target, teacher_logits=None) -> list[torch.Tensor]:
    """``KD_s`` of every student, at the end of the ramp."""
    return loss._distillation(outputs, target, teacher_logits, 1.0)
