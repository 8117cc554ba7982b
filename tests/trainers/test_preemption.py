"""SIGTERM ends a training in order."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from nnunetv2_mamba.trainers.preemption import Preempted, TerminationRequest

SETTINGS = "num_epochs=3, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"


@pytest.mark.parametrize("moment", ["train_step", "validation_step"])
def test_sigterm_saves_and_the_epoch_is_repeated(make_trainer, monkeypatch, moment):
    trainer = make_trainer("nnUNetTrainerSegMamba", SETTINGS)
    handler = signal.getsignal(signal.SIGTERM)
    step = getattr(trainer, moment)

    def terminated_in_epoch_1(batch: dict) -> dict:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    setattr(trainer, moment, terminated_in_epoch_1)
    with pytest.raises(SystemExit) as exit_:
        trainer.run_training()
    assert exit_.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == handler

    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    content = torch.load(latest, weights_only=False)
    assert content["current_epoch"] == 1
    assert {len(values) for values in content["logging"].values()} == {1}
    torch.testing.assert_close(content["network_weights"], dict(trainer.network.state_dict()), rtol=0, atol=0)

    continued = make_trainer("nnUNetTrainerSegMamba", SETTINGS)
    continued.load_checkpoint(str(latest))
    continued.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").exists()
    assert {len(values) for values in continued.logger.get_checkpoint().values()} == {3}


def test_sigterm_after_the_last_step_still_ends_the_process(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    end = trainer.on_train_end

    def terminated_while_finishing() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        end()

    trainer.on_train_end = terminated_while_finishing
    with pytest.raises(SystemExit):
        trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").exists()


def test_another_error_is_not_hidden(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMamba")

    def broken(batch: dict) -> dict:
        raise RuntimeError("no such thing")

    trainer.train_step = broken
    with pytest.raises(RuntimeError, match="no such thing"):
        trainer.run_training()


def _wait(started: multiprocessing.synchronize.Event) -> None:
    started.set()
    time.sleep(60)


def test_forked_children_still_die_of_it():
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    with TerminationRequest() as request:
        child = fork.Process(target=_wait, args=(started,))
        child.start()
        assert started.wait(60)
        child.terminate()
        child.join(60)
        assert child.exitcode == -signal.SIGTERM
        request.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Preempted):
            request.check()
