"""Where one rule of the self-distillation ends and the next begins."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_cases import CPU, make_loss, make_outputs, make_target

from nnunetv2_mamba.losses.distillation_safeguards import ClassBrake
from nnunetv2_mamba.losses.distillation_statistics import EpochStatistics
from nnunetv2_mamba.losses.label_kinds import ExclusiveClasses, Regions


def test_a_teacher_as_good_as_the_student_teaches():
    brake = ClassBrake(1, 3, slice(1, None), CPU)
    brake.update(torch.tensor([[[0.9, 0.0, 0.5], [0.9, 0.0, 0.5]]]))
    assert not brake.braked.any()


def test_by_default_distillation_begins_after_a_twentieth_and_is_full_after_three():
    loss = make_loss()
    assert loss.weight_at(0.049) == 0 and loss.weight_at(0.15) == loss.weight_at(1.0) == 0.5
    assert loss.weight_at(0.1) == pytest.approx(0.5 * math.exp(-5 / 4))


@pytest.mark.parametrize(
    ("kind", "channels"), [(ExclusiveClasses(), 1), (ExclusiveClasses(3), 1), (Regions(), 2), (Regions(True), 3)]
)
def test_valid_is_bool_and_of_one_channel_whatever_the_target_is(kind, channels):
    for dtype in (torch.int16, torch.uint8, torch.float32, torch.bool):
        valid = kind.valid(torch.zeros(2, channels, 3, 4, dtype=dtype))
        assert valid.dtype == torch.bool and valid.shape == (2, 1, 3, 4) and valid.all()


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
def test_the_type_of_the_target_changes_nothing(regions, dtype):
    outputs, target = make_outputs(), make_target(regions, ignore=True)
    losses = [make_loss(regions, ignore=True, brake=True) for _ in range(2)]
    values = [
        loss(outputs, [labels.to(kind) for labels in target])
        for loss, kind in zip(losses, (dtype, torch.int64), strict=True)
    ]
    torch.testing.assert_close(*values)
    summaries = [vars(loss.end_epoch(distributed=False)) for loss in losses]
    torch.testing.assert_close(*summaries)


def test_every_sum_of_the_statistics_is_where_the_loss_is_computed():
    statistics = EpochStatistics(3, 2, 3, torch.device("meta"))
    sums = [value for value in vars(statistics).values() if isinstance(value, torch.Tensor)]
    assert len(sums) == 3 and {value.device.type for value in sums} == {"meta"}
