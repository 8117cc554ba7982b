"""A signal stops a training in order, of nnU-Net's own trainer and of this package's, and checkpoints appear whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba import files
from nnunetv2_mamba.nnunet.preemptible_training import PreemptibleTraining
from nnunetv2_mamba.nnunet.preemption import Preempted, TerminationRequest

SETTINGS = "num_epochs=3, num_iterations_per_epoch=2, num_val_iterations_per_epoch=1"
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU") if hasattr(signal, name)]


class nnUNetTrainerShort(nnUNetTrainer):
    """nnU-Net's, as its own variants are made."""

    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 2, 1


class PreemptibleShort(PreemptibleTraining, nnUNetTrainerShort):
    pass


OURS = "nnUNetTrainerSegMamba"
BOTH = pytest.mark.parametrize("kind", [OURS, PreemptibleShort], ids=["ours", "nnU-Net's"])


@pytest.mark.parametrize(
    ("kind", "number", "moment"),
    [
        *((OURS, number, "train_step") for number in SIGNALS),
        (OURS, signal.SIGTERM, "validation_step"),
        (PreemptibleShort, signal.SIGTERM, "train_step"),
        pytest.param(
            PreemptibleShort, getattr(signal, "SIGUSR2", signal.SIGTERM), "validation_step", marks=pytest.mark.slow
        ),
    ],
)
def test_a_signal_saves_and_the_epoch_is_repeated(make_trainer, kind, number, moment):
    """SIGINT follows where nnU-Net's parent process, of several GPUs, dies of the signal too."""
    trainer = make_trainer(kind, SETTINGS)
    handlers = {each: signal.getsignal(each) for each in (*SIGNALS, signal.SIGINT)}
    step, weights = getattr(trainer, moment), {}

    def terminated_in_epoch_1(batch: dict) -> dict:
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), signal.SIGINT)
            weights.update({name: tensor.clone() for name, tensor in trainer.network.state_dict().items()})
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
    torch.testing.assert_close(content["network_weights"], weights, rtol=0, atol=0)

    if number != signal.SIGTERM:  # how it ended makes no difference to what follows
        return
    continued = make_trainer(kind, SETTINGS)
    continued.load_checkpoint(str(latest))
    continued.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").exists()
    assert {len(values) for values in continued.logger.get_checkpoint().values()} == {3}


@BOTH
@pytest.mark.parametrize(
    ("resumed", "seconds", "epoch"),
    [(True, 1, 7), (True, -1, 1), (False, 1, 1)],
    ids=["--c", "killed in between", "--val"],
)
def test_a_training_that_was_prolonged_goes_on_where_it_was_stopped(make_trainer, kind, resumed, seconds, epoch):
    """``nnUNetv2_train --c`` asks for the final checkpoint first, and would begin again where that ends."""
    trainer = make_trainer(kind, SETTINGS)
    trainer.initialize()
    final, latest = (Path(trainer.output_folder) / f"checkpoint_{name}.pth" for name in ("final", "latest"))
    for trainer.current_epoch, file in ((0, final), (6, latest)):
        trainer.save_checkpoint(str(file))
    written = final.stat().st_mtime + seconds
    os.utime(latest, (written, written))
    continued = make_trainer(kind, SETTINGS)
    continued.logger.resume = resumed
    continued.load_checkpoint(str(final))
    assert continued.current_epoch == epoch


def test_a_signal_that_comes_while_the_processes_agree_to_go_on_counts_before_the_next_step(make_trainer, monkeypatch):
    """The others begin this step, and would wait for ever for its gradients."""
    trainer = make_trainer(OURS)
    trainer.is_ddp, trainer._termination = True, TerminationRequest()
    monkeypatch.setattr(dist, "all_reduce", lambda *_: setattr(trainer._termination, "received", signal.SIGTERM))
    trainer._stop_if_asked()
    with pytest.raises(Preempted):
        trainer._stop_if_asked()


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


@BOTH
def test_another_error_is_not_hidden(make_trainer, kind):
    trainer = make_trainer(kind)

    def broken(batch: dict) -> dict:
        raise RuntimeError("no such thing")

    trainer.train_step = broken
    with pytest.raises(RuntimeError, match="no such thing"):
        trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("*.pth"))


@BOTH
def test_an_interrupted_write_leaves_the_checkpoint_that_was_there(make_trainer, monkeypatch, tmp_path, kind):
    trainer, file = make_trainer(kind), tmp_path / "checkpoint_latest.pth"
    trainer.initialize()
    trainer.save_checkpoint(str(file))
    save = torch.save

    def interrupted(content, target):
        save(content, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    trainer.current_epoch = 1
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(file))
    assert torch.load(file, weights_only=False)["current_epoch"] == 1
    monkeypatch.undo()
    trainer.save_checkpoint(str(file))
    assert torch.load(file, weights_only=False)["current_epoch"] == 2
    assert not list(tmp_path.glob(".partial-*"))


@BOTH
def test_what_a_killed_process_had_not_completed_is_removed(make_trainer, kind):
    trainer = make_trainer(kind)
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    left = Path(trainer.output_folder) / f".partial-{files._host()}-{dead.pid}-0-checkpoint_best.pth"
    left.touch()
    trainer.on_train_start()
    assert not left.exists() and f"Removed {left.name}" in Path(trainer.log_file).read_text()


@BOTH
def test_disabled_checkpointing_and_other_ranks_write_nothing(make_trainer, tmp_path, kind):
    trainer = make_trainer(kind)
    trainer.initialize()
    trainer.disable_checkpointing = True
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert "checkpointing is disabled" in Path(trainer.log_file).read_text()
    trainer.disable_checkpointing, trainer.local_rank = False, 1
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert not (tmp_path / "checkpoint.pth").exists()
