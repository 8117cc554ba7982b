"""NaN and Inf in a training are skipped, explained, and end it when they do not stop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nnunetv2_mamba.trainers.nonfinite import PATIENCE, NonFiniteError
from nnunetv2_mamba.trainers.precision import AMP_VARIABLE


@pytest.fixture
def trainer(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    return trainer


def step(trainer, poison_image: bool = False) -> None:
    batch = next(trainer.dataloader_train)
    if poison_image:
        batch["data"][0, 0, 0, 0, 0] = float("nan")
    trainer.train_step(batch)


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def weights(trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.network.parameters()]


def assert_unchanged(trainer, before: list[torch.Tensor]) -> None:
    for old, new in zip(before, trainer.network.parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_layer_whose_output_it_was_is_named_and_the_step_skipped(trainer):
    stage = trainer.network.encoder.stages[1].gated_conv
    handle = stage.fuse[1].register_forward_hook(lambda module, args, output: output * float("inf"))
    before = weights(trainer)
    step(trainer)
    assert_unchanged(trainer, before)
    assert "came first from the output of encoder.stages.1.gated_conv.fuse.1, a InstanceNorm3d" in log_of(trainer)
    handle.remove()
    step(trainer)
    assert any(not torch.equal(old, new) for old, new in zip(before, trainer.network.parameters(), strict=True))
    assert (trainer.non_finite.in_a_row, trainer.non_finite.total) == (0, 1)


def test_a_bad_gradient_is_traced_to_its_weights(trainer):
    name, parameter = next(
        (name, p) for name, p in trainer.network.named_parameters() if name.endswith("spatial2.0.weight")
    )
    parameter.register_hook(lambda gradient: gradient / 0)
    before = weights(trainer)
    step(trainer)
    assert_unchanged(trainer, before)
    assert f"came first from the gradient of {name}" in log_of(trainer)


def test_a_bad_image_is_named(trainer):
    before = weights(trainer)
    step(trainer, poison_image=True)
    assert_unchanged(trainer, before)
    assert "came first from the input batch" in log_of(trainer)


@pytest.mark.parametrize(
    ("bad_part", "found"),
    [
        (1, "the input batch (an image holds NaN or Inf; check the raw data and its preprocessing)"),
        (3, "the input batch (an image holds NaN or Inf; check the raw data and its preprocessing) (in part 3 of the"),
        (None, "nowhere when the step was repeated"),
    ],
)
def test_every_part_of_a_batch_is_searched(make_trainer, bad_part, found):
    trainer = make_trainer("nnUNetTrainerMedSegMambaPaper", "num_epochs=1")
    trainer.configuration_manager.configuration["patch_size"] = [8, 12, 12]
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    batch = next(trainer.dataloader_train)
    if bad_part is None:  # once only
        parameter = next(trainer.network.parameters())
        handle = parameter.register_hook(lambda gradient: handle.remove() or gradient * float("nan"))
    else:
        batch["data"][(bad_part - 1) * trainer.batch_size, 0, 0, 0, 0] = float("nan")
    trainer.train_step(batch)
    assert f"came first from {found}" in log_of(trainer)
    assert ("in part" in log_of(trainer)) == (bad_part == 3)


def test_training_stops_after_ten_in_a_row_and_keeps_the_checkpoint(trainer, tmp_path):
    trainer.save_checkpoint(str(tmp_path / "good.pth"))
    for _ in range(PATIENCE - 1):
        step(trainer, poison_image=True)
    with pytest.raises(NonFiniteError, match=rf"{PATIENCE} steps in a row.*{AMP_VARIABLE}=none"):
        step(trainer, poison_image=True)
    saved = torch.load(tmp_path / "good.pth", weights_only=False)["network_weights"]
    torch.testing.assert_close(saved, dict(trainer.network.state_dict()), rtol=0, atol=0)


def test_a_settling_loss_scale_is_not_an_alarm(make_trainer, monkeypatch):
    monkeypatch.setenv(AMP_VARIABLE, "fp16")
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = weights(trainer)
    step(trainer)
    assert_unchanged(trainer, before)
    assert trainer.grad_scaler.get_scale() == 2.0**39
    assert not trainer.optimizer.state  # a scaler that skips fused SGD's first step leaves uninitialised momentum
    assert "Gradient beyond fp16 in epoch 0, iteration 0" in log_of(trainer)
    assert "came first from" not in log_of(trainer)
