"""SIGTERM, and a cluster's warnings, end a training in order."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from nnunetv2_mamba.trainers.preemption import Preempted, TerminationRequest

SETTINGS = "num_epochs=3, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"


SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)]


@pytest.mark.parametrize(
    ("number", "moment"), [*((number, "train_step") for number in SIGNALS), (signal.SIGTERM, "validation_step")]
)
def test_a_signal_saves_and_the_epoch_is_repeated(make_trainer, number, moment):
    """SIGINT follows where nnU-Net's parent process, of several GPUs, dies of the signal too."""
    trainer = make_trainer("nnUNetTrainerSegMamba", SETTINGS)
    handlers = {each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGINT)}
    step = getattr(trainer, moment)

    def terminated_in_epoch_1(batch: dict) -> dict:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGINT)
        return step(batch)

    setattr(trainer, moment, terminated_in_epoch_1)
    with pytest.raises(SystemExit) as exit_:
        trainer.run_training()
    assert exit_.value.code == 128 + number
    assert {each: signal.getsignal(each) for each in handlers} == handlers
    assert f"{number.name}: wrote checkpoint_latest.pth in epoch 1" in Path(trainer.log_file).read_text()

    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    content = torch.load(latest, weights_only=False)
    assert content["current_epoch"] == 1
    assert {len(values) for values in content["logging"].values()} == {1}
    torch.testing.assert_close(content["network_weights"], dict(trainer.network.state_dict()), rtol=0, atol=0)

    if number != signal.SIGTERM:  # how it ended makes no difference to what follows
        return
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


@pytest.mark.parametrize("attributes", [{"local_rank": 1}, {"disable_checkpointing": True}], ids=["rank 1", "disabled"])
def test_only_who_writes_checkpoints_writes_one_more(make_trainer, attributes):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.initialize()
    vars(trainer).update(attributes)

    def stopped() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise Preempted

    trainer.on_train_start = stopped
    with pytest.raises(SystemExit) as stop:
        trainer.run_training()
    assert stop.value.code == 128 + signal.SIGTERM
    assert not list(Path(trainer.output_folder).glob("*.pth"))


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


@pytest.mark.parametrize("number", SIGNALS)
def test_forked_children_still_die_of_it(number):
    fork = multiprocessing.get_context("fork")
    started = fork.Event()
    with TerminationRequest() as request:
        child = fork.Process(target=_wait, args=(started,))
        child.start()
        assert started.wait(60)
        os.kill(child.pid, number)
        child.join(60)
        assert child.exitcode == -number
        request.check()
        os.kill(os.getpid(), number)
        with pytest.raises(Preempted):
            request.check()


@pytest.mark.parametrize("number", [number for number in SIGNALS if number != signal.SIGTERM])
@pytest.mark.parametrize("taken", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_warning_that_somebody_else_handles_is_left_to_them(number, taken):
    before = signal.signal(number, taken)
    try:
        with TerminationRequest() as request:
            assert signal.getsignal(number) == taken
            os.kill(os.getpid(), number)
            request.check()
    finally:
        signal.signal(number, before)


def test_outside_the_main_thread_nothing_changes():
    def enter() -> None:
        with TerminationRequest() as request:
            handlers.append(signal.getsignal(signal.SIGTERM))
            request.check()

    handlers: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
