"""Checkpoints are whole or absent, are nnU-Net's, and a training continues from them where it was."""

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
from tiny_dataset import NAME

from nnunetv2_mamba import trainers

EPOCH = "num_iterations_per_epoch=1, num_val_iterations_per_epoch=1"


def load(path: Path) -> dict:
    return torch.load(path, weights_only=False)


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def train(trainer, epochs: int) -> None:
    """Train ``epochs`` more epochs and leave ``checkpoint_latest.pth``, as a training that is stopped there does."""
    trainer.on_train_start()
    for _ in range(epochs):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train))])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()


def test_same_content_as_nnunets_plus_the_settings(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    train(trainer, 1)
    trainer.save_checkpoint(str(tmp_path / "ours.pth"))
    nnUNetTrainer.save_checkpoint(trainer, str(tmp_path / "theirs.pth"))
    ours, theirs = load(tmp_path / "ours.pth"), load(tmp_path / "theirs.pth")
    assert ours.pop("nnunetv2_mamba_settings") and ours.pop("nnunetv2_mamba_environment")
    assert ours.keys() == theirs.keys()
    torch.testing.assert_close(ours["network_weights"], theirs["network_weights"], rtol=0, atol=0)
    for key in ours:
        assert str(ours[key]) == str(theirs[key]), key


def test_read_once_and_as_nnunet_reads_it(make_trainer, tmp_path, monkeypatch):
    first = make_trainer("nnUNetTrainerMedSegMamba", EPOCH)
    train(first, 1)
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    ours, theirs = (make_trainer("nnUNetTrainerMedSegMamba", EPOCH) for _ in range(2))
    read, reads = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: reads.append(args) or read(*args, **kwargs))
    ours.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert len(reads) == 1
    nnUNetTrainer.load_checkpoint(theirs, str(tmp_path / "checkpoint.pth"))
    contents = [trainer.checkpoint_content() for trainer in (ours, theirs, first)]
    for content in contents[:2]:
        assert content.pop("current_epoch") == first.current_epoch + 2
    assert contents[2].pop("current_epoch") == first.current_epoch + 1
    for content in contents:
        weights = content.pop("network_weights")
        torch.testing.assert_close(weights, first.bare_network().state_dict(), rtol=0, atol=0)
    assert str(contents[0]) == str(contents[1]) == str(contents[2])


def test_content_instead_of_a_file(make_trainer):
    first, second = make_trainer("nnUNetTrainerSegMamba", EPOCH), make_trainer("nnUNetTrainerSegMamba", EPOCH)
    first.initialize()
    second.load_checkpoint(first.checkpoint_content())
    torch.testing.assert_close(second.network.state_dict(), first.network.state_dict(), rtol=0, atol=0)


def test_weights_of_data_parallel(make_trainer):
    first, second = make_trainer("nnUNetTrainerSegMamba", EPOCH), make_trainer("nnUNetTrainerSegMamba", EPOCH)
    first.initialize()
    content = first.checkpoint_content()
    content["network_weights"] = {f"module.{name}": value for name, value in content["network_weights"].items()}
    second.load_checkpoint(content)
    torch.testing.assert_close(second.network.state_dict(), first.network.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_killed_while_saving(tiny_dataset, make_trainer, tmp_path):
    """The same kill -9 destroys nnU-Net's checkpoint and leaves ours, which can be continued."""
    folder = tiny_dataset.preprocessed / NAME
    outcome = {}
    for name in ("nnUNetTrainer", "nnUNetTrainerSegMamba"):
        checkpoint = tmp_path / name / "checkpoint_latest.pth"
        checkpoint.parent.mkdir()
        script = Path(__file__).with_name("killed_while_saving.py")
        arguments = [name, folder / "dataset.json", folder / "tinySegMambaPlans.json", checkpoint]
        process = subprocess.run([sys.executable, script, *arguments], env=os.environ, capture_output=True, text=True)
        assert process.returncode == -signal.SIGKILL, process.stderr
        outcome[name] = checkpoint
    with pytest.raises((RuntimeError, EOFError, OSError)):
        load(outcome["nnUNetTrainer"])

    checkpoint = outcome["nnUNetTrainerSegMamba"]
    assert load(checkpoint)["current_epoch"] == 5
    (unfinished,) = set(checkpoint.parent.iterdir()) - {checkpoint}
    trainer = make_trainer("nnUNetTrainerSegMamba", EPOCH)
    unfinished.rename(Path(trainer.output_folder) / unfinished.name)
    (Path(trainer.output_folder) / "checkpoint_best.pth.1.partial").touch()  # of an earlier version
    trainer.load_checkpoint(str(checkpoint))
    train(trainer, 1)
    assert trainer.current_epoch == 6
    assert not [path for path in Path(trainer.output_folder).iterdir() if "partial" in path.name]
    log = log_of(trainer)
    assert f"Removed {unfinished.name}" in log and "Removed checkpoint_best.pth.1.partial" in log


@pytest.fixture
def distribute(tmp_path):
    """Wrap a trainer's network as nnU-Net does with several GPUs (after the constructor, which wants CUDA then)."""

    def wrap(trainer) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
        trainer.network = torch.nn.parallel.DistributedDataParallel(trainer.network)
        trainer.is_ddp = True

    yield wrap
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("distributed", [False, True])
def test_wrapped_networks_save_and_load_under_bare_names(compiled, distributed, make_trainer, tmp_path, distribute):
    first, second = make_trainer("nnUNetTrainerSegMamba"), make_trainer("nnUNetTrainerSegMamba")
    networks = []
    for trainer in (first, second):
        trainer.initialize()
        networks.append(trainer.network)
        if compiled:
            trainer.network = torch.compile(trainer.network, backend="eager")
    if distributed:
        distribute(first)
        distribute(second)

    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert load(tmp_path / "checkpoint.pth")["network_weights"].keys() == networks[0].state_dict().keys()
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    torch.testing.assert_close(networks[1].state_dict(), networks[0].state_dict(), rtol=0, atol=0)
    for enabled in (False, True):
        second.set_deep_supervision_enabled(enabled)
        assert networks[1].decoder.deep_supervision is enabled


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerSegMamba",
        pytest.param("nnUNetTrainerMedSegMamba", marks=pytest.mark.slow),
        "nnUNetTrainerMedSegMambaPaper",
    ],
)
def test_resume_continues_epochs_optimizer_and_schedule(name, make_trainer):
    settings = f"num_epochs=5, save_every=1, {EPOCH}"
    first = make_trainer(name, settings)
    train(first, 2)
    latest = Path(first.output_folder) / "checkpoint_latest.pth"

    second = make_trainer(name, settings)
    second.load_checkpoint(str(latest))
    assert second.current_epoch == first.current_epoch == 2
    assert second.logger.get_value("train_losses", step=None) == first.logger.get_value("train_losses", step=None)
    moments = [{**first.optimizer.state_dict()["state"]}, {**second.optimizer.state_dict()["state"]}]
    assert moments[0].keys() == moments[1].keys() and moments[0]
    for index, state in moments[0].items():
        torch.testing.assert_close(moments[1][index], state, rtol=0, atol=0)
    for trainer in (first, second):
        trainer.lr_scheduler.step(2.5)
    assert second.optimizer.param_groups[0]["lr"] == first.optimizer.param_groups[0]["lr"]

    second.run_training()
    assert second.current_epoch == 5 and load(latest.with_name("checkpoint_final.pth"))["current_epoch"] == 5
    assert not latest.exists()


def test_resume_keeps_the_settings_of_the_training(make_trainer):
    first = make_trainer("nnUNetTrainerSegMamba", f"num_epochs=7, momentum=0.5, save_every=1, {EPOCH}")
    train(first, 1)
    second = make_trainer("nnUNetTrainerSegMamba", "")
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert second.recipe == first.recipe
    assert (second.num_epochs, second.num_iterations_per_epoch, second.save_every) == (7, 1, 1)
    assert {group["momentum"] for group in second.optimizer.param_groups} == {0.5}
    assert "Setting num_epochs: 7 in the checkpoint, 1000 now; using 7" in log_of(second)


def test_resume_with_other_settings_says_so_and_uses_them(make_trainer):
    first = make_trainer("nnUNetTrainerSegMamba", f"num_epochs=7, weight_decay=0.5, save_every=1, {EPOCH}")
    train(first, 1)
    second = make_trainer("nnUNetTrainerSegMamba", "weight_decay=0.25")
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert second.optimizer.param_groups[0]["weight_decay"] == 0.25
    assert second.num_epochs == 7
    assert "Setting weight_decay: 0.5 in the checkpoint, 0.25 now; using 0.25" in log_of(second)


@pytest.mark.parametrize(("trained_with", "now", "axes"), [("true", "false", None), ("false", "true", (0, 1, 2))])
def test_a_validation_with_another_mirroring_uses_it(make_trainer, trained_with, now, axes):
    """``--val`` makes no loaders of data, which tell nnU-Net the axes."""
    first = make_trainer("nnUNetTrainerSegMamba", f"mirroring={trained_with}, {EPOCH}")
    first.on_train_start()
    content = first.checkpoint_content()
    for settings, expected in ((f"mirroring={now}", axes), ("", first.inference_allowed_mirroring_axes)):
        second = make_trainer("nnUNetTrainerSegMamba", settings)
        second.load_checkpoint(content)
        assert second.inference_allowed_mirroring_axes == expected


def test_resume_with_other_plans_says_so(make_trainer, tiny_dataset):
    """Those of the name may have been made anew since: 3d_lowres has other voxels then."""
    plans = tiny_dataset.plans("tinySegMambaPlans")
    tiny_dataset.write_plans("changingPlans", plans)
    first = make_trainer("nnUNetTrainerSegMamba", EPOCH, plans="changingPlans")
    first.initialize()
    content = first.checkpoint_content()
    same = make_trainer("nnUNetTrainerSegMamba", EPOCH, plans="changingPlans")
    same.load_checkpoint(content)
    assert "plans have changed" not in log_of(same)
    plans["configurations"]["3d_fullres"] |= {"batch_size": 3, "spacing": [2.0, 1.0, 1.0]}
    plans |= {"transpose_forward": [1, 0, 2], "transpose_backward": [1, 0, 2]}
    tiny_dataset.write_plans("changingPlans", plans)
    second = make_trainer("nnUNetTrainerSegMamba", EPOCH, plans="changingPlans")
    second.load_checkpoint(content)
    log = log_of(second)
    assert "WARNING: the plans have changed. batch_size: 2 in the checkpoint, 3 now" in log
    assert "spacing: [1.0, 1.0, 1.0] in the checkpoint, [2.0, 1.0, 1.0] now" in log
    assert "transpose_forward: [0, 1, 2] in the checkpoint, [1, 0, 2] now" in log and log.count("have changed") == 3


def test_resume_refuses_other_labels(make_trainer, tiny_dataset):
    """The numbers of two exchanged, in the label maps too: their number is the same, and the targets are swapped."""
    first = make_trainer("nnUNetTrainerSegMamba", EPOCH)
    first.initialize()
    content = first.checkpoint_content()
    dataset = {**tiny_dataset.dataset_json(), "labels": {"background": 0, "large": 2, "small": 1}}
    second = make_trainer("nnUNetTrainerSegMamba", EPOCH, dataset_json=dataset)
    with pytest.raises(ValueError, match=r"began: the label 'large' was 1 and is 2; change it back.* without --c$"):
        second.load_checkpoint(content)


def test_resume_with_other_names_of_channels_says_so(make_trainer, tiny_dataset):
    first = make_trainer("nnUNetTrainerSegMamba", EPOCH)
    first.initialize()
    dataset = {**tiny_dataset.dataset_json(), "channel_names": {"0": "channel 0", "1": "T2"}}
    second = make_trainer("nnUNetTrainerSegMamba", EPOCH, dataset_json=dataset)
    second.load_checkpoint(first.checkpoint_content())
    assert "WARNING: names in dataset.json have changed: 'channel 1' is 'T2' now" in log_of(second)


@pytest.mark.parametrize("setting", ["optimizer='adamw'", "enable_deep_supervision=false"])
def test_resume_refuses_what_the_checkpoint_cannot_follow(make_trainer, setting):
    first = make_trainer("nnUNetTrainerSegMamba", f"save_every=1, {EPOCH}")
    train(first, 1)
    second = make_trainer("nnUNetTrainerSegMamba", setting)
    with pytest.raises(ValueError, match="without --c"):
        second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))


def test_a_checkpoint_without_settings_is_continued(make_trainer, tmp_path):
    trainer = make_trainer("nnUNetTrainerSegMamba", EPOCH)
    trainer.initialize()
    nnUNetTrainer.save_checkpoint(trainer, str(tmp_path / "theirs.pth"))
    other = make_trainer("nnUNetTrainerSegMamba", EPOCH)
    other.load_checkpoint(str(tmp_path / "theirs.pth"))
    assert other.current_epoch == 1


@pytest.mark.parametrize("kept", [0, 5_000, 0.5, 0.99])
def test_truncated_checkpoint_is_named(make_trainer, tmp_path, kept):
    trainer = make_trainer("nnUNetTrainerSegMamba")
    trainer.initialize()
    checkpoint = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(checkpoint))
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(ValueError, match="checkpoint_latest.pth is damaged .*--c then continues from the next best"):
        trainer.load_checkpoint(str(checkpoint))


@pytest.mark.parametrize("content", [torch.zeros(3), {"network_weights": {}}, [1, 2]], ids=["tensor", "part", "list"])
def test_a_file_that_holds_something_else_is_named(make_trainer, tmp_path, content):
    torch.save(content, tmp_path / "checkpoint_latest.pth")
    message = "checkpoint_latest.pth is no checkpoint of a training: it has no .*optimizer_state.*next best"
    with pytest.raises(ValueError, match=message):
        make_trainer("nnUNetTrainerSegMamba").load_checkpoint(str(tmp_path / "checkpoint_latest.pth"))


def test_a_subclass_that_sets_attributes_is_logged_and_kept_as_it_trains(make_trainer, tmp_path):
    class Longer(trainers.nnUNetTrainerSegMamba):
        def __init__(self, plans, configuration, fold, dataset_json, device):
            super().__init__(plans, configuration, fold, dataset_json, device)
            self.num_epochs = 2000

    trainer = make_trainer(Longer, settings=EPOCH)
    trainer.on_train_start()
    assert "num_epochs = 2000\n" in log_of(trainer)
    assert trainer.checkpoint_content()["nnunetv2_mamba_settings"]["num_epochs"] == 2000
    assert trainer.recipe.num_epochs == 2000
