"""Ramp, learned weights and brake behave as their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from distillation_cases import CPU, WEIGHTS, distillation, make_loss, make_outputs, make_target

from nnunetv2_mamba.losses.distillation_safeguards import ClassBrake, Ramp, UncertaintyWeights

NAN = math.nan


def test_ramp():
    ramp = Ramp(warmup=0.05, ramp=0.1)
    assert ramp(0.0) == ramp(0.049) == 0.0
    assert ramp(0.1) == pytest.approx(math.exp(-5 / 4))
    assert ramp(0.15) == ramp(1.0) == 1.0
    values = [ramp(step / 1000) for step in range(1001)]
    assert values == sorted(values)
    assert Ramp(0.0, 0.0)(0.0) == 1.0


def test_the_ramp_scales_the_distillation():
    outputs, target = make_outputs(), make_target()
    loss = make_loss(distillation_weight=0.5, ramp=Ramp(0.2, 0.4))
    term = sum(w / 3 * t for w, t in zip((2, 1), distillation(loss, outputs, target), strict=True))
    segmentation = loss(outputs, target, progress=0.1)
    for progress, share in ((0.4, math.exp(-5 / 4)), (0.7, 1.0)):
        assert loss.weight_at(progress) == pytest.approx(0.5 * share)
        torch.testing.assert_close(loss(outputs, target, progress=progress), segmentation + 0.5 * share * term)


def test_statistics_are_kept_while_the_ramp_is_zero():
    loss = make_loss()
    loss(make_outputs(), make_target(), progress=0.0)
    means = loss.end_epoch(distributed=False)
    assert (means.distillation > 0).all() and means.dice.isfinite().all()


def test_uncertainty_weights_start_as_given_and_settle_at_the_logarithm():
    weights = UncertaintyWeights([1.0, 0.25])
    shares = torch.ones(2)
    terms = torch.tensor([0.3, 2.0], requires_grad=True)
    weights(terms, shares).backward()
    torch.testing.assert_close(terms.grad, torch.tensor([1.0, 0.25]))
    optimizer = torch.optim.SGD(weights.parameters(), 0.5)
    for _ in range(200):
        optimizer.zero_grad()
        weights(terms.detach(), shares).backward()
        optimizer.step()
    torch.testing.assert_close(weights.log_variances.detach(), (terms.detach() + 0.01).log(), rtol=1e-3, atol=1e-3)


def test_uncertainty_weights_stay_finite_where_a_gate_makes_a_term_zero():
    """With nnU-Net's momentum; a brake on all regions is such a gate."""
    weights = UncertaintyWeights([1.0, 0.3])
    optimizer = torch.optim.SGD(weights.parameters(), 1e-2, momentum=0.99, nesterov=True)
    for _ in range(400):
        optimizer.zero_grad()
        weights(torch.tensor([0.3, 0.0]), torch.ones(2)).backward()
        optimizer.step()
        assert weights.log_variances.isfinite().all() and weights.log_variances[1] > -20
    assert weights.log_variances[1].item() == pytest.approx(math.log(0.01), abs=0.1)


@pytest.mark.parametrize("teacher", ["final", "fused"])
def test_uncertainty_weighting_of_the_loss(teacher):
    outputs, target = make_outputs(), make_target()
    fused = [torch.randn_like(outputs[0]).requires_grad_()] if teacher == "fused" else []
    plain = make_loss(teacher=teacher, distillation_weight=0.5)
    module = UncertaintyWeights([1.0, 0.5 * 2 / 3, 0.5 / 3])
    weighted = make_loss(teacher=teacher, distillation_weight=0.5, uncertainty=module)
    first, second = (loss([*outputs, *fused], target) for loss in (plain, weighted))
    gradients = [torch.autograd.grad(value, outputs[:3], retain_graph=True) for value in (first, second)]
    torch.testing.assert_close(*gradients)
    second.backward()
    terms = distillation(plain, [*outputs, *fused], target)
    expected = (1 - 2 * torch.stack([w * (t + 0.01) for w, t in zip((1 / 3, 1 / 6), terms, strict=True)])) / 2
    torch.testing.assert_close(module.log_variances.grad[1:], expected.detach())


@pytest.mark.parametrize("teacher", ["final", "fused"])
@pytest.mark.parametrize("regions", [False, True])
def test_the_segmentation_term_of_uncertainty_weighting_is_not_negative(regions, teacher):
    """nnU-Net's loss of a perfect prediction is -1 per head, times its weight, and Kendall's formula has no minimum for
    a negative term."""
    target = make_target(regions)
    seen = []

    class Watch(torch.nn.Module):
        def forward(self, terms, shares):
            seen.append((terms.detach(), shares))
            return terms.sum()

    loss = make_loss(regions, uncertainty=Watch(), teacher=teacher)
    truths = target if regions else [torch.nn.functional.one_hot(y[:, 0].long(), 3).movedim(-1, 1) for y in target]
    outputs = [100.0 * truth - 50.0 for truth in truths]
    outputs += outputs[:1] if teacher == "fused" else []
    loss([logits.clone().requires_grad_() for logits in outputs], target)
    terms, shares = seen[0]
    assert -1e-6 < terms[0] < 1e-3 and len(terms) == len(shares) == 3


def test_warm_up_leaves_the_weights_of_the_students_alone():
    module = UncertaintyWeights([1.0, 0.3, 0.2])
    loss = make_loss(uncertainty=module)
    loss(make_outputs(), make_target(), progress=0.0).backward()
    assert module.log_variances.grad[0] != 0 and module.log_variances.grad[1:].tolist() == [0.0, 0.0]


def test_brake_compares_moving_averages():
    brake = ClassBrake(1, 4, slice(1, None), CPU)
    assert not brake.braked.any()
    teacher, student = [0.1, 0.5, 0.8, NAN], [0.9, 0.8, 0.5, NAN]
    brake.update(torch.tensor([[teacher, student]]))
    assert brake.braked.tolist() == [[False, True, False, False]]
    # five better epochs do not release class 1, six do
    states = []
    for _ in range(6):
        brake.update(torch.tensor([[[0.1, 0.9, NAN, NAN], [0.9, 0.5, NAN, NAN]]]))
        states.append(brake.braked[0].tolist())
    assert [state[1] for state in states] == [0.3 * 0.9**n > 0.4 * (1 - 0.9**n) for n in range(1, 7)]
    assert not states[-1][1] and states[0][1]
    assert not any(state[2] or state[3] for state in states)  # absent: the average stays


def test_brake_of_regions_may_hold_every_channel():
    brake = ClassBrake(1, 2, slice(None), CPU)
    brake.update(torch.tensor([[[0.1, 0.2], [0.9, 0.1]]]))
    assert brake.braked.tolist() == [[True, False]]


def test_weights_of_the_students_sum_to_the_distillation_weight():
    outputs, target = make_outputs(), make_target()
    loss = make_loss(distillation_weight=0.5, gate="none")
    one, two = distillation(loss, outputs, target)
    segmentation = make_loss(distillation_weight=0.0)(outputs, target)
    k = [w / sum(WEIGHTS[1:]) for w in WEIGHTS[1:3]]
    torch.testing.assert_close(loss(outputs, target) - segmentation, 0.5 * (k[0] * one + k[1] * two))
