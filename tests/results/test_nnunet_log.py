"""The formats of nnU-Net's logs, written here by nnU-Net itself, and what a file may not do that a stranger made."""

import io
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.results.nnunet_log import CURVES, curves_of_checkpoint, curves_of_text, text_logs

EPOCHS = 3


@pytest.fixture
def fold(tmp_path, monkeypatch):
    """What nnU-Net's trainer leaves of three epochs, in which nothing was computed."""
    monkeypatch.setattr(MetaLogger, "plot_progress_png", lambda *_: None)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    trainer = object.__new__(nnUNetTrainer)
    network = torch.nn.Linear(1000, 1000)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    vars(trainer).update(
        local_rank=0, is_ddp=False, device=torch.device("cpu"), output_folder=str(tmp_path),
        log_file=str(tmp_path / "training_log_2026_1_1_00_00_00.txt"), logger=MetaLogger(str(tmp_path), False),
        network=network, optimizer=optimizer, lr_scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        grad_scaler=None, disable_checkpointing=False, my_init_kwargs={}, inference_allowed_mirroring_axes=(0, 1),
        current_epoch=0, num_epochs=EPOCHS, save_every=50, _best_ema=None,
    )  # fmt: skip
    for epoch in range(EPOCHS):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([{"loss": np.float32(-0.25 * epoch)}])
        voxels = {"tp_hard": np.array([1 + epoch, 0]), "fp_hard": np.array([1, 0]), "fn_hard": np.array([0, 0])}
        with np.errstate(invalid="ignore"):
            trainer.on_validation_epoch_end([{"loss": np.float32(0.5 * epoch), **voxels}])
        trainer.on_epoch_end()
    trainer.save_checkpoint(str(tmp_path / "checkpoint_final.pth"))
    return tmp_path


EXPECTED = {
    "dice": {epoch: (2 + 2 * epoch) / (3 + 2 * epoch) for epoch in range(EPOCHS)},  # the other class has no voxels
    "train_loss": {0: 0, 1: -0.25, 2: -0.5},
    "val_loss": {0: 0, 1: 0.5, 2: 1},
}


def test_nnunets_logger_in_a_checkpoint(fold):
    curves = curves_of_checkpoint(fold / "checkpoint_final.pth")
    assert curves.keys() == CURVES.keys()
    for name, curve in EXPECTED.items():
        assert curves[name] == pytest.approx(curve, rel=1e-6)


def test_nnunets_text_log(fold):
    """Rounded to four decimals there."""
    (log,) = text_logs(fold)
    curves = curves_of_text([log])
    for name, curve in EXPECTED.items():
        assert curves[name] == pytest.approx(curve, abs=6e-5), log.read_text()


def test_weights_stay_in_the_file(fold, monkeypatch):
    """Nor does a mapped file fill the memory: nobody reads that part of it."""
    load, mapped = torch.load, []
    monkeypatch.setattr(
        torch, "load", lambda *args, mmap=None, **more: mapped.append(mmap) or load(*args, mmap=mmap, **more)
    )
    file = fold / "checkpoint_final.pth"
    assert file.stat().st_size > 4e6
    before = _resident()
    curves_of_checkpoint(file)
    assert _resident() - before < 2e6 and mapped == [True]


def _resident() -> int:
    """Bytes of this process's memory, files that are mapped and were read included."""
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Harmful:
    def __reduce__(self):
        return (os.system, ("touch harmed",))


def test_a_strangers_checkpoint_runs_no_code(fold, monkeypatch):
    monkeypatch.chdir(fold)
    file = fold / "checkpoint_final.pth"
    torch.save({**torch.load(file, weights_only=False), "extra": Harmful()}, file)
    with pytest.raises(pickle.UnpicklingError, match="holds more than weights and numbers"):
        curves_of_checkpoint(file)
    assert not (fold / "harmed").exists()


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        {"logging": None},
        {"logging": {"mean_fg_dice": [1.0]}},
        {"logging": {k.logged: ["x"] for k in CURVES.values()}},
    ],
)
def test_a_checkpoint_without_such_a_log(content, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="x.pth holds no log of nnU-Net's"):
        curves_of_checkpoint(tmp_path / "x.pth")


def test_a_checkpoint_of_an_old_torch_is_refused(tmp_path):
    """Its weights cannot stay in the file."""
    torch.save({"logging": {}}, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="x.pth"):
        curves_of_checkpoint(tmp_path / "x.pth")


def test_lines_of_a_text_log(tmp_path):
    lines = [
        "2026-01-01 00:00:01.000000: Epoch 0", "2026-01-01 00:00:02.000000: train_loss -0.25",
        "2026-01-01 00:00:02.000000: val_loss nan", "2026-01-01 00:00:03.000000: Epoch 7",
        "2026-01-01 00:00:04.000000: train_loss -1.5e-1", "train_loss 5", "2026-01-01 00:00:05.000000: Epoch soon",
        "2026-01-01 00:00:05.000000: train_loss -", "2026-01-01 00:00:05.000000: train_loss 1.2.3",
        "2026-01-01 00:00:05.000000: val_loss e", f"2026-01-01 00:00:05.000000: Epoch {'9' * 5000}",
        "2026-01-01 00:00:06.000000: Pseudo dice [np.float32(0.5), np.float32(nan), np.float32(0.75)]",
    ]  # fmt: skip
    (tmp_path / "log").write_text("\n".join(lines))
    expected = {"train_loss": {0: -0.25, 7: -0.15}, "val_loss": {}, "dice": {7: 0.625}}
    assert curves_of_text([tmp_path / "log"]) == expected


def test_the_later_log_holds(tmp_path):
    """nnU-Net writes months and days without leading zeros."""
    for day, loss in (("2026_10_1", -2.0), ("2026_9_30", -1.0), ("2026_10_12", -4.0), ("2026_10_9", -3.0)):
        (tmp_path / f"training_log_{day}_09_05_00.txt").write_text(
            f"2026-01-01 00:00:00.000000: Epoch 0 \n2026-01-01 00:00:00.000000: train_loss {loss} \n"
        )
    assert curves_of_text(text_logs(tmp_path))["train_loss"] == {0: -4.0}
