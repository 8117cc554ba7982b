"""The traced memory against what real runs keep, and what must hold between estimates."""

from functools import partial

import pytest
import torch
from kept_storages import kept_bytes
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_networks import NETWORKS, TOPOLOGY, fitting_shape
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunetv2_mamba.architectures import SegMamba
from nnunetv2_mamba.memory import estimate
from nnunetv2_mamba.memory.estimate import (
    GIB,
    autocast_as_on_cuda,
    inference_memory,
    plan_memory,
    training_loss,
    training_memory,
    usable_bytes,
)
from nnunetv2_mamba.memory.tracker import AllocationTracker

SHAPE = (2, 2, 32, 32, 32)
SEGMAMBA = NETWORKS["SegMamba"]


def bytes_kept(network: nn.Module, shape: tuple[int, ...], autocast: torch.dtype | None) -> int:
    """What a real forward pass with the loss keeps for the backward pass, without weights; and the input."""
    image = torch.randn(shape)
    left_out = (*network.parameters(), *network.buffers(), image)
    return kept_bytes(lambda: training_loss(network, image, autocast), without=left_out) + image.nbytes


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "SegMamba" else pytest.mark.slow) for name in NETWORKS]
)
def test_activations_are_those_of_a_real_run(name, autocast):
    shape = fitting_shape(name, SHAPE)
    with FakeTensorMode():
        network, tracker = NETWORKS[name](), AllocationTracker()
        tracker.count([*network.parameters(), *network.buffers()], "parameters")
        with tracker:
            loss = training_loss(network, torch.empty(shape), autocast)
    traced = tracker.used["activations"]
    assert traced == pytest.approx(bytes_kept(NETWORKS[name](), shape, autocast), rel=0.15)
    assert loss.requires_grad and training_memory(NETWORKS[name], shape, autocast=autocast).total >= traced


def test_the_lowest_resolution_is_not_trained_and_fused_logits_are():
    """A fused head's come last, at full resolution (MSDKMamba)."""
    generator = torch.Generator().manual_seed(0)
    sizes = (8, 4, 2)
    heads = [torch.randn(1, 3, size, size, generator=generator) for size in sizes]
    outputs = [head.requires_grad_() for head in (*heads, heads[0].clone())]
    training_loss(lambda image: outputs, torch.zeros(1, 1, 8, 8), None).backward()
    largest, half, lowest, fused = (output.grad for output in outputs)
    assert lowest is None and largest.abs().sum() > 0 and half.abs().sum() > 0
    torch.testing.assert_close(fused, largest)


def test_autocast_computes_in_fp32_what_cuda_does():
    norm = nn.GroupNorm(2, 8)
    with autocast_as_on_cuda(torch.float16):
        x = nn.functional.conv3d(torch.randn(1, 8, 4, 4, 4), torch.randn(8, 8, 1, 1, 1))
        seen = [x.dtype, norm(x).dtype, x.softmax(1).dtype, nn.functional.silu(x).dtype]
        with torch.autocast("cpu", enabled=False):
            seen.append(torch.exp(x).dtype)
    assert seen == [torch.float16, torch.float32, torch.float32, torch.float16, torch.float16]


def test_parts_of_an_estimate():
    weights = sum(p.numel() * 4 for p in SEGMAMBA().parameters())
    sgd, adamw = (training_memory(SEGMAMBA, SHAPE, optimizer) for optimizer in ("sgd", "adamw"))
    assert sgd.parameters == adamw.parameters == weights  # no buffers
    assert sgd.optimizer == weights
    assert adamw.optimizer == pytest.approx(2 * weights, rel=0.01)  # and a step counter per tensor
    assert sgd.total == sum(getattr(sgd, name) for name in sgd.__dataclass_fields__)
    full = training_memory(SEGMAMBA, SHAPE, autocast=None)
    assert full.total - full.fixed > 1.3 * (sgd.total - sgd.fixed)
    assert inference_memory(SEGMAMBA, SHAPE).total < 0.5 * sgd.total


def test_weights_dominate_a_step_on_a_tiny_patch():
    wide = partial(SegMamba, **{**TOPOLOGY, "features_per_stage": [8, 64, 128]})
    estimate = training_memory(wide, (2, 2, 8, 8, 8), "adamw")
    assert estimate.total > estimate.fixed + 0.9 * estimate.parameters  # the peak comes when gradients are there
    assert estimate.activations < 0.1 * estimate.total


def test_a_larger_batch_stays_below_the_planners_bound():
    two, six = (training_memory(SEGMAMBA, (batch, *SHAPE[1:])) for batch in (2, 6))
    bound = two.fixed + 3 * (two.total - two.fixed)
    assert 0.9 * bound < six.total <= bound


def test_nothing_fake_is_left_behind():
    training_memory(SEGMAMBA, (1, 2, 20, 12, 28))
    network = SEGMAMBA()
    network(torch.randn(1, 2, 20, 12, 28))[0].sum().backward()
    assert all(type(p.grad) is torch.Tensor for p in network.parameters() if p.grad is not None)


def test_a_plan_is_trained_with_its_batch_and_predicts_a_patch_at_a_time(tiny_dataset, monkeypatch):
    training, prediction = [], []
    monkeypatch.setattr(estimate, "_architecture_memory", estimate._architecture_memory.__wrapped__)  # no cache
    monkeypatch.setattr(estimate, "training_memory", lambda build, *asked: training.append((build, *asked)))
    monkeypatch.setattr(estimate, "inference_memory", lambda *asked: prediction.append(asked))
    plans = tiny_dataset.plans("nnUNetPlans")
    plans["configurations"]["3d_fullres"]["batch_size"] = 7
    plan_memory(PlansManager(plans), "3d_fullres", tiny_dataset.dataset_json(), "adamw")
    ((build, shape, optimizer),), ((build_for_prediction, one_patch),) = training, prediction
    assert (shape, one_patch, optimizer) == ((7, 2, 16, 24, 20), (1, 2, 16, 24, 20), "adamw")
    assert build().decoder.deep_supervision and not build_for_prediction().decoder.deep_supervision


def test_unknown_optimizer():
    with pytest.raises(ValueError, match="optimizer must be one of sgd, adamw, got 'lion'"):
        training_memory(SEGMAMBA, SHAPE, "lion")


def test_a_gpu_is_not_planned_full():
    assert usable_bytes(24) == pytest.approx(21.1 * GIB)
