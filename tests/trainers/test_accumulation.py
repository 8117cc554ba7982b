"""Gradients of several batches make one step: that of one batch of all their samples."""

from __future__ import annotations

import math
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from comparison import assert_close, difference

from nnunetv2_mamba import trainers
from nnunetv2_mamba.trainers.accumulation import AccumulatingRecipe
from nnunetv2_mamba.trainers.precision import AMP_VARIABLE

NAME = "nnUNetTrainerUMamba2Paper"


def test_the_published_numbers():
    recipe = trainers.nnUNetTrainerUMamba2Paper.recipe
    assert isinstance(recipe, AccumulatingRecipe)
    assert (recipe.num_epochs, recipe.num_iterations_per_epoch, recipe.batches_per_step) == (1500, 250, 2)
    plain = trainers.nnUNetTrainerUMamba2.recipe
    assert (recipe.optimizer, recipe.initial_lr, recipe.momentum) == (plain.optimizer, 1e-2, 0.99)


def batch_of(trainer, seed: int) -> dict:
    """A batch of one sample."""
    generator = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    images = torch.randn(1, trainer.num_input_channels, *patch, generator=generator)
    labels = (images[:, :1] > 0.8).float() + (images[:, 1:2] > 0.3).float()
    targets = [
        torch.nn.functional.interpolate(labels, scale_factor=scale, mode="nearest-exact")
        for scale in trainer._get_deep_supervision_scales()
    ]
    return {"data": images, "target": targets}


def joined(batches: list[dict]) -> dict:
    targets = zip(*(batch["target"] for batch in batches), strict=True)
    return {"data": torch.cat([b["data"] for b in batches]), "target": [torch.cat(scale) for scale in targets]}


def together(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def step(make_trainer, name: str, batches: list[dict] | None, settings: str = "") -> tuple[object, dict]:
    """The trainer after one step, and the step's loss, gradients (clipped, not scaled) and weights."""
    trainer = make_trainer(name, f"num_epochs=1{settings}")
    torch.manual_seed(0)
    trainer.initialize()
    trainer.on_train_epoch_start()
    if trainer.grad_scaler is not None:
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2**10)  # which does not overflow at the first step
    first, *more = batches or [batch_of(trainer, seed) for seed in range(3)]
    trainer.dataloader_train = iter(more)
    result = trainer.train_step(first)
    with pytest.raises(StopIteration):  # all of them were taken
        next(trainer.dataloader_train)
    gradients = {key: p.grad for key, p in trainer.network.named_parameters() if p.grad is not None}
    weights = {key: p.detach() for key, p in trainer.network.named_parameters()}
    return trainer, {"loss": float(result["loss"]), "gradients": gradients, "weights": weights}


@pytest.mark.parametrize(("precision", "tolerance"), [("none", 1e-5), ("fp16", 2e-2), ("bf16", 5e-2)])
@pytest.mark.parametrize("batches_per_step", [2, 3])
def test_the_step_is_that_of_one_batch_of_all(make_trainer, monkeypatch, batches_per_step, precision, tolerance):
    """Gradients are compared as they are clipped, the loss scale taken out."""
    monkeypatch.setenv(AMP_VARIABLE, precision)
    probe = make_trainer("nnUNetTrainerUMamba2")
    probe.initialize()
    assert not probe.configuration_manager.batch_dice
    batches = [batch_of(probe, seed) for seed in range(batches_per_step)]
    _, expected = step(make_trainer, "nnUNetTrainerUMamba2", [joined(batches)])
    trainer, actual = step(make_trainer, NAME, batches, f", batches_per_step={batches_per_step}")
    assert (trainer.grad_scaler is not None) == (precision == "fp16") and trainer.non_finite.total == 0
    assert actual["loss"] == pytest.approx(expected["loss"], rel=tolerance)
    for part in ("gradients", "weights"):
        assert actual[part].keys() == expected[part].keys()
        assert_close(together(actual[part]), together(expected[part]), tolerance)
    _, alone = step(make_trainer, "nnUNetTrainerUMamba2", batches[:1])
    error, of_one = (
        difference(together(each["gradients"]), together(expected["gradients"])) for each in (actual, alone)
    )
    assert of_one > 5 * error  # no batch by itself gives them


def test_a_bad_batch_is_skipped_with_all_of_its_step(make_trainer):
    trainer = make_trainer(NAME)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    good, bad = batch_of(trainer, 0), batch_of(trainer, 1)
    bad["data"][0, 0, 0, 0, 0] = float("nan")
    trainer.dataloader_train = iter([bad])
    trainer.train_step(good)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.network.parameters(), strict=True))
    assert "the input batch (an image holds NaN or Inf" in (log := Path(trainer.log_file).read_text())
    assert "(in part 2 of the batch)" in log and trainer.non_finite.total == 1


def test_an_epoch_has_as_many_steps_and_twice_as_many_batches(make_trainer):
    trainer = make_trainer(NAME)
    seen = []
    get_dataloaders = trainer.get_dataloaders

    def counting():
        training, validation = get_dataloaders()
        return (seen.append(1) or batch for batch in training), validation

    trainer.get_dataloaders = counting
    trainer.run_training()
    assert len(seen) == 2 * 2
    assert trainer.optimizer.state_dict()["state"][0].get("momentum_buffer") is not None
    assert math.isfinite(trainer.logger.get_value("val_losses", step=-1))
    with pytest.raises(ValueError, match="batches_per_step must be a whole number of at least 1"):
        make_trainer(NAME, "batches_per_step=0")


class CountsSynchronisation(torch.nn.Module):
    """Stands for DistributedDataParallel around a network."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module, self.averaging, self.calls = module, True, []

    def no_sync(self):
        return self

    def __enter__(self):
        self.averaging = False

    def __exit__(self, *_):
        self.averaging = True

    def forward(self, x):
        self.calls.append(self.averaging)
        return self.module(x)


def test_gradients_are_averaged_among_processes_with_the_last_batch_only(make_trainer):
    """The forward pass is in the context as well, as DistributedDataParallel wants it."""
    trainer = make_trainer(NAME, "num_epochs=1, batches_per_step=3")
    trainer.initialize()
    trainer.on_train_epoch_start()
    trainer.network, trainer.is_ddp = CountsSynchronisation(trainer.network), True
    hooked = []
    weight = next(trainer.bare_network().parameters())
    weight.register_hook(lambda gradient: hooked.append(trainer.network.averaging))
    first, *more = (batch_of(trainer, seed) for seed in range(3))
    trainer.dataloader_train = iter(more)
    with patch("torch.distributed.all_reduce"):  # which asks the others whether to stop
        trainer.train_step(first)
    assert trainer.network.calls == hooked == [False, False, True]
