"""The self-distillation loss against a plain formula, and what it must not do."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from distillation_cases import CPU, IGNORE, WEIGHTS, distillation, make_loss, make_outputs, make_target
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunetv2_mamba.losses import SelfDistillationLoss
from nnunetv2_mamba.losses.distillation_gates import GATES
from nnunetv2_mamba.losses.label_kinds import ExclusiveClasses, Regions
from nnunetv2_mamba.losses.self_distillation import students_of

LABELS = [(regions, ignore) for regions in (False, True) for ignore in (False, True)]


def pooling_bins(fine: tuple[int, ...], coarse: tuple[int, ...], voxel: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(math.floor(i * f / c), math.ceil((i + 1) * f / c)) for f, c, i in zip(fine, coarse, voxel, strict=True)
    )


def plain_term(student, teacher, target, tau, gate, regions, ignore, standardise=False) -> float:
    """``KD_s`` voxel by voxel in float64, with cross-entropies written out."""
    student, teacher, target = (x.detach().double().numpy() for x in (student, teacher, target))
    classes, grid = student.shape[1], student.shape[2:]

    def probabilities(logits, t):  # classes first
        if standardise and t != 1:
            logits = (logits - logits.mean(0)) / (logits.std(0, ddof=1) + 1e-7)
        if regions:
            return 1 / (1 + np.exp(-logits / t))
        exponentials = np.exp(logits / t)
        return exponentials / exponentials.sum(0)

    total, count = 0.0, 0
    for case, voxel in itertools.product(range(len(student)), np.ndindex(*grid)):
        label = target[(case, slice(None), *voxel)]
        if ignore and (label[-1] == 1 if regions else label[0] == IGNORE):
            continue
        own = student[(case, slice(None), *voxel)]
        window = teacher[(case, slice(None), *pooling_bins(teacher.shape[2:], grid, voxel))].reshape(classes, -1)
        soft, hard = probabilities(window, tau).mean(1), probabilities(window, 1).mean(1)
        soft_own, hard_own = probabilities(own, tau), probabilities(own, 1)
        if regions:
            for c in range(classes):
                truth = label[c] == 1
                ce = [-math.log(p[c] if truth else 1 - p[c]) for p in (hard, hard_own)]
                right = (hard[c] > 0.5) == truth
                kl = sum(q * math.log(q / p) for q, p in ((soft[c], soft_own[c]), (1 - soft[c], 1 - soft_own[c])))
                total += kl * plain_gate(gate, *ce, right)
                count += 1
        else:
            truth = int(label[0])
            ce = [-math.log(p[truth]) for p in (hard, hard_own)]
            kl = sum(q * math.log(q / p) for q, p in zip(soft, soft_own, strict=True))
            total += kl * plain_gate(gate, *ce, hard.argmax() == truth)
            count += 1
    return tau**2 * total / count


def plain_gate(gate: str, teacher_ce: float, student_ce: float, right: bool) -> float:
    return {
        "none": 1.0,
        "correct": float(right),
        "confidence": 1 / (1 + math.exp(teacher_ce - student_ce)),
        "advantage": max(0.0, math.tanh((student_ce - teacher_ce) / 2)),
    }[gate]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize(("regions", "ignore"), LABELS)
def test_equals_the_plain_formula(regions, ignore, gate, dims):
    outputs, target = make_outputs(dims), make_target(regions, ignore, dims)
    loss = make_loss(regions, ignore, gate=gate, temperature=3.0, distillation_weight=0.7)
    terms = [plain_term(outputs[s], outputs[0], target[s], 3.0, gate, regions, ignore) for s in (1, 2)]
    for actual, expected in zip(distillation(loss, outputs, target), terms, strict=True):
        assert actual.item() == pytest.approx(expected, rel=1e-5)
    nnunet = DeepSupervisionWrapper(loss.segmentation_loss, WEIGHTS)(outputs, target)
    expected = nnunet.item() + 0.7 * (2 / 3 * terms[0] + 1 / 3 * terms[1])
    assert loss(outputs, target).item() == pytest.approx(expected, rel=1e-5)


def test_standardised_logits_equal_the_plain_formula():
    outputs, target = make_outputs(), make_target()
    loss = make_loss(standardise_logits=True, temperature=2.0)
    expected = plain_term(outputs[1], outputs[0], target[1], 2.0, "advantage", False, False, standardise=True)
    assert distillation(loss, outputs, target)[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("gate", list(GATES))
def test_zero_when_student_equals_teacher(regions, gate):
    logits = torch.randn(2, 3, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    outputs = [logits.expand_as(scale).clone().requires_grad_() for scale in make_outputs()]
    loss = make_loss(regions, gate=gate)
    for term in distillation(loss, outputs, make_target(regions)):
        assert abs(term.item()) < 1e-6
        (gradient,) = torch.autograd.grad(term, outputs[1], allow_unused=True, retain_graph=True)
        assert gradient is None or gradient.abs().max() < 1e-6


def test_a_constant_added_to_the_logits_changes_nothing():
    outputs, target = make_outputs(), make_target()
    loss = make_loss()
    shifted = [logits + shift for logits, shift in zip(outputs, (5.0, -7.0, 11.0, 0.0), strict=True)]
    torch.testing.assert_close(distillation(loss, shifted, target), distillation(loss, outputs, target))


def test_standardisation_forgets_scale_too():
    outputs, target = make_outputs(), make_target()
    scaled = [outputs[0] * 9 + 4, outputs[1] * 0.1 - 3, *outputs[2:]]
    loss = make_loss(standardise_logits=True, gate="none")
    torch.testing.assert_close(distillation(loss, scaled, target), distillation(loss, outputs, target))
    plain = make_loss(gate="none")
    assert not torch.isclose(distillation(plain, scaled, target)[0], distillation(plain, outputs, target)[0], rtol=0.1)


def test_standardised_equal_logits_have_finite_gradients():
    outputs = [torch.zeros_like(scale).requires_grad_() for scale in make_outputs()]
    make_loss(standardise_logits=True)(outputs, make_target()).backward()
    assert all(scale.grad.isfinite().all() for scale in outputs[:3])


@pytest.mark.parametrize("teacher", ["final", "fused", "ema"])
def test_no_gradient_reaches_the_teacher(teacher):
    outputs, target = make_outputs(), make_target()
    fused, ema = (logits.requires_grad_() for logits in (torch.randn_like(outputs[0]), torch.randn_like(outputs[0])))
    loss = make_loss(teacher=teacher)
    logits = {"final": outputs[0], "fused": fused, "ema": ema}[teacher]
    terms = distillation(loss, [*outputs, fused], target, ema)
    expected = plain_term(outputs[1], logits, target[1], 3.0, "advantage", False, False)
    assert terms[0].item() == pytest.approx(expected, rel=1e-5)
    sum(terms).backward()
    assert outputs[0].grad is None and fused.grad is None and ema.grad is None
    assert outputs[1].grad.abs().max() > 0 and outputs[2].grad.abs().max() > 0


@pytest.mark.parametrize("regions", [False, True])
def test_no_gradient_at_ignored_voxels(regions):
    outputs, target = make_outputs(), make_target(regions, ignore=True)
    sum(distillation(make_loss(regions, ignore=True), outputs, target)).backward()
    for scale in (1, 2):
        ignored = (target[scale][:, -1:] == (1 if regions else IGNORE)).expand_as(outputs[scale])
        gradient = outputs[scale].grad
        assert ignored.any() and (gradient[ignored] == 0).all() and (gradient[~ignored] != 0).any()


def test_only_ignored_voxels():
    outputs, target = make_outputs(), make_target(ignore=True)
    target = [torch.full_like(labels, IGNORE) for labels in target]
    assert [term.item() for term in distillation(make_loss(ignore=True), outputs, target)] == [0.0, 0.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gate", list(GATES))
@pytest.mark.parametrize("regions", [False, True])
def test_finite_for_huge_logits_and_under_autocast(regions, gate, dtype):
    huge = [(1e4 * logits.detach().sign()).to(dtype).requires_grad_() for logits in make_outputs()]
    loss = make_loss(regions, gate=gate, standardise_logits=not regions)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        terms = distillation(loss, huge, make_target(regions))
    assert all(term.dtype == torch.float32 and term.isfinite() and term >= 0 for term in terms)
    sum(terms).backward()
    assert all(logits.grad.isfinite().all() for logits in huge[1:3])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(dtype):
    outputs, target = [logits.to(dtype) for logits in make_outputs()], make_target()
    expected = distillation(make_loss(), [logits.float() for logits in outputs], target)
    with torch.autocast("cpu", dtype=dtype):
        actual = distillation(make_loss(), outputs, target)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize(("regions", "ignore"), LABELS)
@pytest.mark.parametrize("teacher", ["final", "fused", "ema"])
def test_validation_sees_nnunets_loss(regions, ignore, teacher):
    outputs, target = make_outputs(), make_target(regions, ignore)
    loss = make_loss(regions, ignore, teacher=teacher)
    nnunet = DeepSupervisionWrapper(loss.segmentation_loss, WEIGHTS)
    with torch.no_grad():
        fused = [torch.randn_like(outputs[0])] if teacher == "fused" else []
        assert loss([*outputs, *fused], target) == nnunet(outputs, target)
    assert loss.statistics.read().segmentation.isnan().all()  # nothing was counted


def test_without_distillation_it_is_nnunets_loss():
    outputs, target = make_outputs(), make_target()
    loss = make_loss(distillation_weight=0.0)
    nnunet = DeepSupervisionWrapper(loss.segmentation_loss, WEIGHTS)
    assert loss(outputs, target) == nnunet(outputs, target)
    single = make_loss(distillation_weight=0.0, weights=(1.0,))
    assert single(outputs[0], target[0]) == loss.segmentation_loss(outputs[0], target[0])


def test_the_fused_output_has_its_own_segmentation_loss():
    outputs, target = make_outputs(), make_target()
    fused = torch.randn_like(outputs[0]).requires_grad_()
    loss = make_loss(teacher="fused")
    nnunet = DeepSupervisionWrapper(loss.segmentation_loss, WEIGHTS)(outputs, target)
    own = WEIGHTS[0] * loss.segmentation_loss(fused, target[0])
    torch.testing.assert_close(loss([*outputs, fused], target, progress=0.0), nnunet + own)
    (gradient,) = torch.autograd.grad(own, fused)
    loss([*outputs, fused], target).backward()
    torch.testing.assert_close(fused.grad, gradient)  # and none from the distillation


def test_heads_that_nnunet_does_not_weigh_are_no_students():
    assert students_of(WEIGHTS) == [1, 2]
    distributed = np.array([1, 0.5, 0.25, 1e-6])
    assert students_of(distributed / distributed.sum()) == [1, 2]
    assert students_of([1.0, 0.0]) == students_of([1.0, 1e-6]) == students_of([1.0]) == []


@pytest.mark.parametrize("regions", [False, True])
def test_gates_at_their_ends(regions):
    kind = Regions() if regions else ExclusiveClasses()
    sure, unsure, wrong = torch.tensor([[1.0, 0.0]]).T[None], torch.full((1, 2, 1), 0.5), torch.tensor([[[0.0], [1.0]]])
    truth = torch.tensor([[[True], [False]]])

    def gate(name, teacher, student):
        values = GATES[name](kind, teacher, student, truth)
        assert values.shape == (1, 2 if regions else 1, 1)
        return values.unique().tolist()

    for teacher, student in itertools.product((sure, unsure, wrong), repeat=2):
        assert gate("none", teacher, student) == [1.0]
    assert gate("correct", sure, wrong) == [1.0] and gate("correct", wrong, wrong) == [0.0]
    for name, equal, better in (("confidence", 0.5, 2 / 3), ("advantage", 0.0, 1 / 3)):
        assert gate(name, sure, sure) == gate(name, wrong, wrong) == [equal]
        assert gate(name, sure, wrong) == pytest.approx([1.0])
        assert gate(name, wrong, sure) == pytest.approx([0.0], abs=1e-7)
        assert gate(name, sure, unsure) == pytest.approx([better])
    assert gate("advantage", wrong, unsure) == [0.0]


@pytest.mark.parametrize("regions", [False, True])
def test_a_braked_class_is_not_taught(regions):
    outputs, target = make_outputs(), make_target(regions)
    loss = make_loss(regions, gate="none", brake=True)
    free = distillation(loss, outputs, target)
    loss.brake.braked[0, 1] = True
    held = distillation(loss, outputs, target)
    assert held[0] < free[0] and held[1] == free[1]
    held[0].backward()
    gradient = outputs[1].grad
    if regions:
        assert (gradient[:, 1] == 0).all() and (gradient[:, 0] != 0).all()
    else:
        labelled = (target[1] == 1).expand_as(gradient)
        assert (gradient[labelled] == 0).all() and (gradient != 0).any()
        pooled = nn.functional.interpolate(outputs[0].softmax(1), gradient.shape[2:], mode="area")
        predicted = (pooled.argmax(1, keepdim=True) == 1).expand_as(gradient)
        assert (gradient[predicted] == 0).all() and (gradient[~labelled & ~predicted] != 0).all()


def test_the_brake_follows_the_dice_of_the_epochs():
    """A student that is right and a teacher that is wrong about class 1: class 1 is braked, class 2 is not."""
    target = make_target()
    outputs = make_outputs()
    one_hot = [nn.functional.one_hot(labels[:, 0].long(), 3).movedim(-1, 1).float() * 20 for labels in target]
    confused = one_hot[0][:, [1, 0, 2]]
    loss = make_loss(brake=True, teacher="ema")
    loss([logits.requires_grad_() for logits in (outputs[0], *one_hot[1:])], target, confused)
    loss.end_epoch(distributed=False)
    assert loss.brake.braked[:, :2].tolist() == [[False, True], [False, True]]  # never the background
    assert loss.brake.state_dict()["dice"].shape == (2, 2, 3)
    other = make_loss(brake=True)
    other.brake.load_state_dict(loss.brake.state_dict())
    assert torch.equal(other.brake.braked, loss.brake.braked)


def test_statistics_are_means_of_the_epoch():
    target = make_target(ignore=True)
    loss = make_loss(ignore=True, gate="correct")
    outputs = [make_outputs(seed=seed) for seed in (0, 1)]
    terms = torch.tensor([[term.item() for term in distillation(loss, o, target)] for o in outputs])
    loss.statistics.read()
    for batch in outputs:
        loss(batch, target)
    means = loss.end_epoch(distributed=False)
    torch.testing.assert_close(means.distillation, terms.mean(0))
    segmentation = [[loss.segmentation_loss(o[s], target[s]).item() for s in range(3)] for o in outputs]
    torch.testing.assert_close(means.segmentation, torch.tensor(segmentation).mean(0))
    for index, scale in enumerate((1, 2)):
        labels = torch.cat([target[scale]] * 2)[:, 0]
        valid = labels != IGNORE
        pooled = torch.cat([nn.functional.adaptive_avg_pool3d(o[0].softmax(1), o[scale].shape[2:]) for o in outputs])
        teacher, student = pooled.argmax(1), torch.cat([o[scale] for o in outputs]).argmax(1)
        wrong = (teacher != labels)[valid].float().mean()
        torch.testing.assert_close(means.gated[index], wrong)
        for source, predicted in enumerate((teacher, student)):
            for label in range(3):
                a, b = (predicted == label) & valid, (labels == label) & valid
                dice = 2 * (a & b).sum() / (a.sum() + b.sum())
                torch.testing.assert_close(means.dice[index, source, label], dice)


def test_statistics_of_an_epoch_know_nothing_of_the_one_before():
    target = make_target()
    used, fresh = make_loss(), make_loss()
    used(make_outputs(seed=0), target)
    used.end_epoch(distributed=False)
    for loss in (used, fresh):
        loss(make_outputs(seed=1), target)
    actual, expected = (vars(loss.end_epoch(distributed=False)) for loss in (used, fresh))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="teacher must be one of final, fused, ema"):
        make_loss(teacher="mean")
    with pytest.raises(ValueError, match="gate must be one of none, correct, confidence, advantage"):
        make_loss(gate="hard")
    for regions, classes in ((True, 4), (False, 2)):
        with pytest.raises(ValueError, match="standardise_logits needs"):
            make_loss(regions, classes=classes, standardise_logits=True)
    with pytest.raises(ValueError, match="needs teacher_logits"):
        make_loss(teacher="ema")(make_outputs(), make_target())


def test_statistics_live_on_the_device_of_the_loss():
    loss = SelfDistillationLoss(nn.Identity(), WEIGHTS, ExclusiveClasses(), 3, torch.device("meta"))
    assert {sums.device.type for sums in (loss.statistics._losses, loss.brake.braked)} == {"meta"} != {CPU.type}
