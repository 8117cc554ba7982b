"""Checkpoint files are whole or absent, and put back what they hold."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nnunetv2_mamba import files
from nnunetv2_mamba.nnunet.checkpoint import checkpoint_written_whole, remove_unfinished, restore


def save(content: dict, path: Path) -> None:
    with checkpoint_written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def load(path: Path) -> dict:
    return torch.load(path, weights_only=False)


def test_an_error_of_the_gpu_is_not_one_of_the_disk(tmp_path):
    with pytest.raises(torch.OutOfMemoryError), checkpoint_written_whole(tmp_path / "checkpoint_best.pth"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert not list(tmp_path.iterdir())


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint_best.pth"
    save({"epoch": 1}, path)

    def disk_full(content, file):
        file.write(b"some bytes")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert load(path) == {"epoch": 1} and list(tmp_path.iterdir()) == [path]


def test_the_file_appears_under_its_name_only_when_complete(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint_best.pth"
    write = torch.save
    seen = []

    def watching_save(content, file):
        write(content, file)
        seen.append(path.exists())

    monkeypatch.setattr(torch, "save", watching_save)
    save({"epoch": 1}, path)
    assert seen == [False] and path.exists()


def test_only_unfinished_checkpoints_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mark = f".partial-{files._host()}"
    kept = [tmp_path / name for name in ("checkpoint_best.pth", "notes.partial", f"{mark}-{dead.pid}-0-notes.txt")]
    kept.append(tmp_path / f"{mark}-{os.getpid()}-0-checkpoint_best.pth")  # still being written
    removed = [tmp_path / "checkpoint_best.pth.1.partial", tmp_path / "checkpoint_latest.pth.22.partial"]
    removed += [tmp_path / f"{mark}-{dead.pid}-7-checkpoint_{name}.pth" for name in ("best", "latest", "final")]
    for path in (*kept, *removed):
        path.touch()
    assert sorted(remove_unfinished(tmp_path)) == sorted(removed)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path):
    """A limit on the size of files stands in for a full disk: the write fails part of the way."""
    resource = pytest.importorskip("resource", reason="Windows limits no sizes")
    checkpoint = tmp_path / "checkpoint_latest.pth"
    save({"epoch": 1}, checkpoint)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"cannot write the checkpoint .*checkpoint_latest.pth .*continue with --c"):
            save({"epoch": 2, "weights": torch.zeros(1_000_000)}, checkpoint)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert load(checkpoint) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [checkpoint]


class Scaler:
    """What of torch's scaler a checkpoint needs."""

    def __init__(self):
        self.loaded = None

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.parametrize("scaled_now", [True, False])
@pytest.mark.parametrize("scaled_then", [True, False])
def test_a_loss_scale_is_taken_over_where_both_trainings_have_one(scaled_now, scaled_then):
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.5)
    network(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    content = {
        "network_weights": network.state_dict(), "init_args": {}, "current_epoch": 3, "logging": {"a": [1]},
        "_best_ema": 0.5, "optimizer_state": optimizer.state_dict(),
        "grad_scaler_state": {"scale": 8.0} if scaled_then else None,
    }  # fmt: skip
    other = nn.Linear(1, 1)
    logged = []
    trainer = SimpleNamespace(
        logger=SimpleNamespace(load_checkpoint=logged.append),
        inference_allowed_mirroring_axes=(0, 1),
        optimizer=torch.optim.SGD(other.parameters(), 0.1, momentum=0.8, weight_decay=0.25),
        grad_scaler=Scaler() if scaled_now else None,
    )
    restore(trainer, other, content)
    assert torch.equal(other.weight, network.weight)
    assert (trainer.current_epoch, trainer._best_ema, logged) == (3, 0.5, [{"a": [1]}])
    assert trainer.inference_allowed_mirroring_axes == (0, 1)  # an older checkpoint has none
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 0.25 and group["momentum"] == 0.8 and len(trainer.optimizer.state) == 2
    if scaled_now:
        assert trainer.grad_scaler.loaded == ({"scale": 8.0} if scaled_then else None)


def test_steps_are_counted_where_the_new_optimizer_wants_them():
    """A checkpoint of MPS, whose optimiser is not fused, continues on CUDA, whose fused one has all on the device."""
    network = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    network(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    other = nn.Linear(1, 1, device="meta")
    content = {
        "network_weights": other.state_dict(), "init_args": {}, "current_epoch": 3, "logging": {}, "_best_ema": 0.5,
        "optimizer_state": optimizer.state_dict(),
    }  # fmt: skip
    trainer = SimpleNamespace(
        logger=SimpleNamespace(load_checkpoint=lambda logging: None),
        inference_allowed_mirroring_axes=None,
        optimizer=torch.optim.AdamW(other.parameters(), 0.1),
        grad_scaler=None,
    )
    trainer.optimizer.param_groups[0]["fused"] = True  # the constructor asks for a device that computes
    restore(trainer, other, content)
    assert {state["step"].device.type for state in trainer.optimizer.state.values()} == {"meta"}
