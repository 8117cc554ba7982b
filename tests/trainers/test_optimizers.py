"""Weight decay touches what it should, and the learning rate follows its formula at every iteration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunetv2_mamba.trainers.optimizers import WarmupPolyLR, parameter_groups


def small_network() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    network.A_log = nn.Parameter(torch.ones(2, 2))
    network.A_log._no_weight_decay = True
    return network


@pytest.mark.parametrize(
    ("decay_vectors", "spared"), [(True, {"A_log"}), (False, {"A_log", "0.bias", "1.weight", "1.bias"})]
)
def test_groups(decay_vectors, spared):
    network = small_network()
    decayed, kept = parameter_groups(network, 0.1, decay_vectors)
    assert decayed["weight_decay"] == 0.1 and kept["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert {names[id(parameter)] for parameter in kept["params"]} == spared
    assert {names[id(parameter)] for parameter in decayed["params"]} == set(names.values()) - spared


def test_no_empty_group():
    assert len(parameter_groups(nn.Linear(2, 2, bias=False), 0.1, decay_vectors=False)) == 1


@pytest.mark.parametrize("name", ["SegMamba", "MedSegMamba", "SegMambaBot", "MedSegMambaMamba2", "UMamba2"])
def test_decay_spares_the_state_space_parameters(name, make_trainer):
    """A step with zero gradients shrinks exactly the decayed parameters."""
    trainer = make_trainer(f"nnUNetTrainer{name}", "initial_lr=1, weight_decay=0.5, momentum=0, warmup_share=0")
    trainer.initialize()
    before = {key: value.detach().clone() for key, value in trainer.network.named_parameters()}
    for parameter in trainer.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    trainer.optimizer.step()
    adamw = trainer.recipe.optimizer == "adamw"
    for key, parameter in trainer.network.named_parameters():
        state_space = key.endswith(("A_log", "dt_proj_bias", "dt_bias")) or key.split(".")[-1] == "D"
        spared = state_space or (adamw and parameter.ndim == 1)
        torch.testing.assert_close(parameter, before[key] * (1.0 if spared else 0.5), msg=key)
    for ending in ("A_log", "dt_bias" if "amba2" in name else "dt_proj_bias", "D"):
        assert any(key.endswith(ending) for key in before)


def test_paper_decays_everything(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMambaPaper")
    trainer.initialize()
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 3e-5 and len(group["params"]) == len(list(trainer.network.parameters()))


def test_warmup_then_poly():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    scheduler = WarmupPolyLR(optimizer, 0.1, max_steps=10, warmup_steps=0.5)
    rates = {}
    for step in (0, 0.25, 0.5, 5, 9.75):
        scheduler.step(step)
        rates[step] = optimizer.param_groups[0]["lr"]
    poly = {step: 0.1 * (1 - step / 10) ** 0.9 for step in rates}
    assert rates == pytest.approx({**poly, 0: 0.01 * poly[0], 0.25: 0.505 * poly[0.25]})


def test_the_rate_moves_with_every_iteration(make_trainer):
    settings = "num_epochs=2, num_iterations_per_epoch=4, num_val_iterations_per_epoch=1, warmup_share=0.25"
    trainer = make_trainer("nnUNetTrainerMedSegMamba", settings)
    rates = []
    step = trainer.train_step

    def recording_step(batch):
        result = step(batch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        return result

    trainer.train_step = recording_step
    trainer.run_training()
    done = [i / 8 for i in range(8)]
    ramp = [0.01 + 0.99 * share / 0.25 if share < 0.25 else 1 for share in done]
    assert rates == pytest.approx([3e-4 * r * (1 - share) ** 0.9 for r, share in zip(ramp, done, strict=True)])


@pytest.mark.parametrize(("clip", "expected"), [(0.01, 0.01), (1e6, None)])
def test_gradients_are_clipped_to_the_recipe(make_trainer, clip, expected):
    trainer = make_trainer("nnUNetTrainerSegMamba", f"gradient_clip={clip}")
    trainer.on_train_start()
    trainer.train_step(next(trainer.dataloader_train))
    gradients = [p.grad for p in trainer.network.parameters() if p.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    assert norm == pytest.approx(expected, rel=1e-3) if expected else norm > 0.01


class Weight(nn.Module):
    """One number, decayed as a matrix is: ``loss = gradient * weight``."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1))


def after_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter, gradients: list[float]) -> float:
    for gradient in gradients:
        weight.grad = torch.full_like(weight, gradient)
        optimizer.step()
    return weight.item()


@pytest.mark.parametrize(
    ("name", "betas"),
    [("nnUNetTrainerMedSegMamba", (0.9, 0.98)), ("nnUNetTrainerMedSegMambaPaper", (0.9, 0.999))],
)
def test_adamw_by_its_definition(make_trainer, name, betas):
    """Loshchilov & Hutter 2019, algorithm 2, with the betas of nnU-Net's Primus trainers, or AdamW's usual ones."""
    rate, decay, gradients = 0.1, 0.5, [1.0, -3.0, 0.5]
    trainer = make_trainer(name, f"initial_lr={rate}, weight_decay={decay}")
    trainer.network = Weight()
    optimizer, _ = trainer.configure_optimizers()
    for group in optimizer.param_groups:
        group["lr"] = rate  # after the warm-up
    expected, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate(gradients, start=1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        mean, variance = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
        expected = (1 - rate * decay) * expected - rate * mean / (variance**0.5 + 1e-8)
    assert after_steps(optimizer, trainer.network.weight, gradients) == pytest.approx(expected, rel=1e-5)
