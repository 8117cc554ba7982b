"""What a sweep changes about a trainer and measures of it, on a stand-in with nnU-Net's hooks."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from sweep_cases import RUN

from nnunetv2_mamba import files
from nnunetv2_mamba.benchmark import cost
from nnunetv2_mamba.benchmark.cost import CostRecord
from nnunetv2_mamba.benchmark.prepare import save_checkpoints_whole, seed_every_epoch, set_budget, stop_in_order
from nnunetv2_mamba.benchmark.run import Budget


class StandIn:
    """Has what nnU-Net's trainers have, as far as it is touched."""

    device = torch.device("cpu")
    local_rank, disable_checkpointing = 0, False
    configuration_name = "3d_fullres"

    def __init__(self, folder: Path, epoch: int = 0):
        self.output_folder, self.current_epoch = str(folder), epoch
        self.num_epochs, self.num_iterations_per_epoch, self.save_every = 1000, 250, 50
        self.configuration_manager = SimpleNamespace(configuration={"batch_size": 9})
        self.plans_manager = SimpleNamespace(plans={"configurations": {"3d_fullres": {"batch_size": 9}}})
        self.inference_allowed_mirroring_axes = (0, 1, 2)
        self.log, self.drawn, self.mirrored = [], [], None

    def print_to_log_file(self, *words, add_timestamp=True):
        self.log.append(words)

    def on_epoch_start(self):
        self.drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))

    def on_epoch_end(self):
        self.current_epoch += 1

    def perform_actual_validation(self, save_probabilities=False):
        self.mirrored = self.inference_allowed_mirroring_axes

    @staticmethod
    def build_network_architecture(*_):
        return LooksAtItsInput()

    def save_checkpoint(self, filename):
        Path(filename).write_text("half")
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        Path(filename).write_text(f"whole, epoch {self.current_epoch}")

    def epoch(self):
        self.on_epoch_start()
        self.on_epoch_end()


class LooksAtItsInput(torch.nn.Conv3d):
    """Cannot be traced on tensors without data."""

    def __init__(self):
        super().__init__(2, 3, 1)

    def forward(self, x):
        return super().forward(x if x.max() > 0 else -x)


def test_budget(tmp_path):
    trainer = StandIn(tmp_path)
    set_budget(trainer, Budget(20, 7, None, 2, mirroring=False))
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.save_every) == (20, 7, 2)
    assert not hasattr(trainer, "num_val_iterations_per_epoch")  # not given, not touched
    assert trainer.configuration_manager.configuration["batch_size"] == 2
    assert trainer.plans_manager.plans["configurations"]["3d_fullres"]["batch_size"] == 2
    trainer.perform_actual_validation()
    assert trainer.mirrored is None and "num_epochs" in str(trainer.log)


def test_no_budget_changes_nothing(tmp_path):
    trainer, untouched = StandIn(tmp_path), StandIn(tmp_path)
    set_budget(trainer, Budget())
    assert vars(trainer).keys() == vars(untouched).keys() and trainer.num_epochs == 1000 and trainer.log == []


def test_a_continued_training_draws_what_it_would_have_drawn(tmp_path):
    whole, continued, other = StandIn(tmp_path), StandIn(tmp_path, epoch=2), StandIn(tmp_path)
    for trainer, seed in ((whole, 3), (continued, 3), (other, 4)):
        seed_every_epoch(trainer, seed)
        for _ in range(3):
            trainer.epoch()
    assert whole.drawn[2] == continued.drawn[0]
    assert len(set(whole.drawn)) == 3 and whole.drawn[0] != other.drawn[0]


def test_an_interrupted_write_leaves_the_checkpoint_that_was_there(tmp_path):
    trainer, file = StandIn(tmp_path), tmp_path / "checkpoint_latest.pth"
    save_checkpoints_whole(trainer)
    trainer.save_checkpoint(str(file))
    trainer.current_epoch = 1
    with pytest.raises(KeyboardInterrupt):
        trainer.save_checkpoint(str(file))
    assert file.read_text() == "whole, epoch 0"
    trainer.current_epoch = 2
    trainer.save_checkpoint(str(file))
    assert file.read_text() == "whole, epoch 2" and list(tmp_path.iterdir()) == [file]


def test_what_a_killed_process_had_not_completed_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-S", "-c", ""])
    dead.wait()
    (tmp_path / f".partial-{files._host()}-{dead.pid}-0-checkpoint_best.pth").touch()
    save_checkpoints_whole(StandIn(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        (signal.SIGUSR2, "train_step"),
        pytest.param(signal.SIGTERM, "validation_step", marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_nnunets_own_trainer_with_a_checkpoint(tiny_dataset, monkeypatch, number, moment):
    torch.set_num_threads(1)
    monkeypatch.setattr("nnunetv2.training.logging.nnunet_logger.MetaLogger.plot_progress_png", lambda *_: None)

    def make():
        plans = {**tiny_dataset.plans("nnUNetPlans"), "continue_training": False}
        trainer = nnUNetTrainer(plans, "3d_fullres", 0, tiny_dataset.dataset_json(), torch.device("cpu"))
        set_budget(trainer, Budget(3, 2, 1, 2))
        save_checkpoints_whole(trainer)
        return trainer

    trainer = make()
    step, weights = getattr(trainer, moment), {}

    def signalled_in_epoch_1(batch):
        result = step(batch)
        if trainer.current_epoch == 1:
            os.kill(os.getpid(), number)
            weights.update({name: tensor.clone() for name, tensor in trainer.network.state_dict().items()})
        return result

    setattr(trainer, moment, signalled_in_epoch_1)
    stop_in_order(trainer)
    before = [signal.getsignal(each) for each in (number, signal.SIGINT)]
    trainer.num_val_iterations_per_epoch = 2  # so that another step would follow
    with pytest.raises(SystemExit) as exit_:
        trainer.run_training()
    assert exit_.value.code == 128 + number
    assert [signal.getsignal(each) for each in (number, signal.SIGINT)] == before and trainer.current_epoch == 1
    assert f"{number.name}: wrote checkpoint_latest.pth in epoch 1" in Path(trainer.log_file).read_text()
    latest = Path(trainer.output_folder) / "checkpoint_latest.pth"
    content = torch.load(latest, weights_only=False)
    assert content["current_epoch"] == 1 and {len(values) for values in content["logging"].values()} == {1}
    torch.testing.assert_close(content["network_weights"], weights, rtol=0, atol=0)

    continued = make()
    stop_in_order(continued)
    continued.load_checkpoint(str(latest))
    continued.run_training()
    assert (Path(continued.output_folder) / "checkpoint_final.pth").exists()
    assert {len(values) for values in continued.logger.get_checkpoint().values()} == {3}


def test_an_error_of_nnunets_own_trainer_is_not_hidden(tmp_path):
    trainer = StandIn(tmp_path)
    trainer.train_step = trainer.validation_step = trainer.run_training = lambda *_: 1 / 0
    stop_in_order(trainer)
    with pytest.raises(ZeroDivisionError):
        trainer.run_training()
    assert not list(tmp_path.iterdir())


def test_measurements_outlive_interruptions_and_count_an_epoch_once(tmp_path, monkeypatch):
    peaks = iter([300, 200, 100, 400])
    monkeypatch.setattr(cost, "peak_memory", lambda _: {"allocated_bytes": None, "process_bytes": next(peaks)})
    joules = iter(range(0, 80, 10))
    monkeypatch.setattr(cost, "EnergyMeter", lambda _: SimpleNamespace(joules=lambda: next(joules)))
    for first in (0, 1):  # the second process repeats epoch 1
        trainer = StandIn(tmp_path, first)
        CostRecord(trainer)
        trainer.epoch()
        trainer.epoch()
    content = json.loads((tmp_path / "cost_partial.json").read_text())
    assert list(content["epochs"]) == ["0", "1", "2"]
    assert {epoch["joules"] for epoch in content["epochs"].values()} == {10}
    assert content["peak_memory"] == {"allocated_bytes": None, "process_bytes": 400}


def test_a_network_that_cannot_be_traced_keeps_its_finished_training(tiny_dataset, tmp_path):
    trainer = StandIn(tmp_path)
    record = CostRecord(trainer)
    trainer.epoch()
    trainer.network = LooksAtItsInput()
    trainer.plans_manager = PlansManager(tiny_dataset.plans("nnUNetPlans"))
    trainer.dataset_json = tiny_dataset.dataset_json()
    trainer.configuration_manager = trainer.plans_manager.get_configuration("3d_fullres")
    record.write(RUN, threads=1)
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["flops"] is None and written["parameters"] == 9 and written["seconds_per_epoch"] > 0
    assert "FLOPs cannot be counted: DataDependentOutputException" in str(trainer.log)


def test_energy_counters_that_wrap(tmp_path, monkeypatch):
    from nnunetv2_mamba.benchmark import energy

    for number in (0, 1):
        package = tmp_path / f"intel-rapl:{number}"
        package.mkdir()
        (package / "max_energy_range_uj").write_text("1000000")
        (package / "energy_uj").write_text("900000")
        (package / "name").write_text(f"package-{number}\n")
    for zone, name in (("intel-rapl:0:0", "core"), ("intel-rapl:2", "psys")):  # of a package, and of all
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(f"{name}\n")
        (tmp_path / zone / "energy_uj").write_text("77")
    monkeypatch.setattr(energy, "_RAPL", tmp_path)
    meter = energy.EnergyMeter(torch.device("cpu"))
    before = meter.joules()
    assert before == pytest.approx(1.8)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000")
    assert meter.joules() - before == pytest.approx(0.2)
    monkeypatch.setattr(energy, "_RAPL", tmp_path / "none")
    assert energy.EnergyMeter(torch.device("cpu")).joules() is None
