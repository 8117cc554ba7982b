"""What a sweep changes about a trainer and measures of it: nnU-Net's own, and a stand-in with nnU-Net's hooks."""

import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from sweep_cases import TRAINING

from nnunetv2_mamba import trainers
from nnunetv2_mamba.benchmark import cost, energy
from nnunetv2_mamba.benchmark.cost import CostRecord
from nnunetv2_mamba.benchmark.measured_training import MeasuredTraining, measured
from nnunetv2_mamba.benchmark.training import Budget, Training
from nnunetv2_mamba.memory import usage
from nnunetv2_mamba.nnunet.preemptible_training import PreemptibleTraining

NAMES = ("num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "save_every")


def run_with(*budget, seed: int = 0, **settings) -> Training:
    return Training("Dataset901_Tiny", "3d_fullres", "nnUNetPlans", "nnUNetTrainer", 0, seed, Budget(*budget), settings)


class Drawing(nnUNetTrainer):
    """Draws a number from every generator at the start of an epoch, and says what it validates with."""

    def on_epoch_start(self):
        super().on_epoch_start()
        self.drawn = [*getattr(self, "drawn", []), (random.random(), np.random.rand(), torch.rand(1).item())]

    def on_epoch_end(self):
        self.current_epoch += 1

    def perform_actual_validation(self, save_probabilities=False):
        self.validated_with = self.inference_allowed_mirroring_axes

    def epoch(self):
        self.on_epoch_start()
        self.on_epoch_end()


class LooksAtItsInput(torch.nn.Conv3d):
    """Cannot be traced on tensors without data."""

    def __init__(self):
        super().__init__(2, 3, 1)

    def forward(self, x):
        return super().forward(x if x.max() > 0 else -x)


@pytest.fixture
def make(tiny_dataset):
    """Construct the measured trainer as nnU-Net does."""
    torch.set_num_threads(1)

    def construct(
        trainer: type[nnUNetTrainer], training: Training, plans: str = "nnUNetPlans", threads: int | None = None
    ):
        document = {**tiny_dataset.plans(plans), "continue_training": False}
        arguments = {"configuration": "3d_fullres", "fold": 0, "dataset_json": tiny_dataset.dataset_json()}
        return measured(trainer, training, threads)(plans=document, device=torch.device("cpu"), **arguments)

    return construct


@pytest.mark.parametrize("trainer", [nnUNetTrainer, trainers.nnUNetTrainerSegMamba, trainers.nnUNetTrainerMSDKMamba])
def test_the_class_is_the_trainers_under_its_name_and_can_be_stopped_once(trainer):
    variant = measured(trainer, TRAINING)
    assert variant.__name__ == trainer.__name__ and issubclass(variant, trainer)
    assert variant.__mro__[:2] == (variant, MeasuredTraining) and variant.__mro__.count(PreemptibleTraining) == 1


def test_a_strangers_attributes_are_its_own(make):
    class Stranger(nnUNetTrainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.training, self.threads, self.cost = True, "many", 0.0

    trainer = make(Stranger, run_with())
    trainer.initialize()
    trainer.on_epoch_start()
    assert (trainer.training, trainer.threads, trainer.cost) == (True, "many", 0.0)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerSegMamba"])
def test_folder_checkpoint_and_arguments_are_those_of_the_trainer(make, tiny_dataset, tmp_path, name):
    trainer = nnUNetTrainer if name == "nnUNetTrainer" else getattr(trainers, name)
    plans = "nnUNetPlans" if name == "nnUNetTrainer" else "tinySegMambaPlans"
    variant = make(trainer, run_with(), plans)
    assert Path(variant.output_folder) == tiny_dataset.model_folder(name, plans) / "fold_0"
    variant.initialize()
    variant.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=False)
    assert content["trainer_name"] == name
    assert content["init_args"].keys() == {"plans", "configuration", "fold", "dataset_json", "device"}


def test_budget(make):
    training = run_with(20, 7, None, 2)
    trainer = make(nnUNetTrainer, training)
    assert [getattr(trainer, name) for name in NAMES] == [20, 7, 50, 2]  # what is not given stays nnU-Net's
    assert trainer.configuration_manager.batch_size == 2
    assert trainer.plans_manager.plans["configurations"]["3d_fullres"]["batch_size"] == 2  # saved beside the model
    log = Path(trainer.log_file).read_text()
    assert "Set by nnunetv2_mamba benchmark:" in log and "'num_epochs': 20" in log and "'batch_size': 2" in log


def test_no_budget_changes_nothing(make, tiny_dataset):
    trainer, batch_size = make(nnUNetTrainer, run_with()), tiny_dataset.plans("nnUNetPlans")["configurations"]
    assert [getattr(trainer, name) for name in NAMES] == [1000, 250, 50, 50]
    assert trainer.configuration_manager.batch_size == batch_size["3d_fullres"]["batch_size"]
    assert "Set by" not in Path(trainer.log_file).read_text()


def test_budget_and_settings_reach_the_recipe_whatever_the_user_has_set(make, monkeypatch):
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", "initial_lr=1, num_epochs=1")
    settings = {"optimizer": "adamw", "initial_lr": 1e-05, "enable_deep_supervision": False}
    trainer = make(trainers.nnUNetTrainerSegMamba, run_with(20, 3, None, 2, **settings), "tinySegMambaPlans")
    own = trainers.nnUNetTrainerSegMamba.recipe
    given = {"num_epochs": 20, "num_iterations_per_epoch": 3, "save_every": 2, **settings}
    expected = {**vars(own), **given}
    assert vars(trainer.recipe) == expected and trainer.explicit == given.keys()
    assert (trainer.num_epochs, trainer.initial_lr, trainer.configuration_manager.batch_size) == (20, 1e-5, 2)


@pytest.mark.parametrize("name", ["nnUNetTrainer", "nnUNetTrainerSegMamba"])
@pytest.mark.parametrize(("schedule", "steps"), [("epoch", [1, 1, 2, 2]), ("iteration", [1, 1.5, 2, 2.5])])
def test_the_learning_rate_is_set_as_often_for_every_trainer(make, monkeypatch, name, schedule, steps):
    trainer = nnUNetTrainer if name == "nnUNetTrainer" else getattr(trainers, name)
    plans = "nnUNetPlans" if name == "nnUNetTrainer" else "tinySegMambaPlans"
    variant = make(trainer, run_with(5, 2, None, 2, True, schedule), plans)
    variant.initialize()
    shape = (2, variant.num_input_channels, *variant.configuration_manager.patch_size)
    targets = [
        torch.zeros(2, 1, *[int(n * share) for n, share in zip(shape[2:], scale, strict=True)])
        for scale in variant._get_deep_supervision_scales()
    ]
    seen = []
    for variant.current_epoch in (1, 2):
        variant.on_train_epoch_start()
        for _ in range(2):
            variant.train_step({"data": torch.zeros(shape), "target": targets})
            seen.append(variant.optimizer.param_groups[0]["lr"])
    assert seen == pytest.approx([variant.initial_lr * (1 - step / 5) ** 0.9 for step in steps])


@pytest.mark.parametrize("mirroring", [True, False])
def test_validation_with_or_without_mirroring(make, monkeypatch, mirroring):
    monkeypatch.setattr(CostRecord, "write", lambda *_: None)
    trainer = make(Drawing, run_with(None, None, None, None, mirroring))
    trainer.inference_allowed_mirroring_axes = (0, 1, 2)
    trainer.perform_actual_validation()
    assert trainer.validated_with == ((0, 1, 2) if mirroring else None)
    assert ("mirroring in validation" in Path(trainer.log_file).read_text()) is not mirroring


def test_a_continued_training_draws_what_it_would_have_drawn(make):
    whole, continued, other = (
        make(Drawing, run_with(seed=3)),
        make(Drawing, run_with(seed=3)),
        make(Drawing, run_with(seed=4)),
    )
    continued.current_epoch = 2
    for trainer in (whole, continued, other):
        for _ in range(3):
            trainer.epoch()
    assert whole.drawn[2] == continued.drawn[0]
    assert len(set(whole.drawn)) == 3 and whole.drawn[0] != other.drawn[0]


def test_the_seed_holds_from_the_constructor_on(make):
    drawn = []
    for seed in (3, 3, 4):
        make(Drawing, run_with(seed=seed))
        drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0] == drawn[1] != drawn[2]


def test_threads(make):
    make(nnUNetTrainer, run_with(), threads=2)
    assert torch.get_num_threads() == 2
    make(nnUNetTrainer, run_with())
    assert torch.get_num_threads() == 2


def test_measurements_outlive_interruptions_and_count_an_epoch_once(make, monkeypatch):
    peaks = iter([300, 200, 100, 400])
    monkeypatch.setattr(cost, "peak_memory", lambda _: {"allocated_bytes": None, "process_bytes": next(peaks)})
    joules = iter(range(0, 80, 10))
    monkeypatch.setattr(cost, "energy_counter", lambda _: lambda: next(joules))
    for first in (0, 1):  # the second process repeats epoch 1
        trainer = make(Drawing, run_with())
        trainer.current_epoch = first
        trainer.epoch()
        trainer.epoch()
    content = json.loads((Path(trainer.output_folder) / "cost_partial.json").read_text())
    assert list(content["epochs"]) == ["0", "1", "2"]
    assert {epoch["joules"] for epoch in content["epochs"].values()} == {10}
    assert content["peak_memory"] == {"allocated_bytes": None, "process_bytes": 400}


def test_a_training_may_go_on_with_another_device(tmp_path, monkeypatch):
    """Begun on a GPU, whose memory the CPU does not tell of, and resumed there."""
    for peak in (7, None, 5):
        monkeypatch.setattr(cost, "peak_memory", lambda _, peak=peak: {"allocated_bytes": peak})
        record = CostRecord(tmp_path, torch.device("cpu"), None)
        record.begin_epoch()
        record.end_epoch(0, 1)
    assert record.content["peak_memory"] == {"allocated_bytes": 7}


def test_what_it_was_computed_with_is_that_of_all_processes(make, monkeypatch):
    """All are named where the training went from one to another. Device and threads are those of the epochs, and not of
    a process that was left to validate; its versions count too."""
    names, versions = iter(["A100", "V100", "T4"]), iter(["1.0", "1.1", "1.0"])
    monkeypatch.setattr(cost, "_device_name", lambda _: next(names))
    monkeypatch.setattr(cost, "_software", lambda: {"torch": next(versions), "python": "3.11"})
    monkeypatch.setattr(cost, "forward_flops", lambda *_: 11)
    both = ("A100 and V100", "1 and 2", "1.0 and 1.1")
    for epochs, threads, expected in ((1, 1, ("A100", 1, "1.0")), (1, 2, both), (0, 1, both)):
        trainer = make(Drawing, run_with(), threads=threads)
        trainer.current_epoch = len(trainer._sweep_cost.content["epochs"])
        for _ in range(epochs):
            trainer.epoch()
        trainer.network = torch.nn.Conv3d(2, 3, 1)
        trainer.perform_actual_validation()
        written = json.loads((Path(trainer.output_folder) / "cost.json").read_text())
        assert (written["device"], written["threads"], written["versions"]["torch"]) == expected
        assert (written["device_type"], written["versions"]["python"]) == ("cpu", "3.11")


def test_the_iterations_of_an_epoch_are_those_it_had(make, monkeypatch):
    """MedSegMambaPaper knows them once it has its loaders: a process that only validates has none."""
    monkeypatch.setattr(cost, "forward_flops", lambda *_: 11)
    for epochs, iterations in ((1, 7), (0, 0)):
        trainer = make(Drawing, run_with())
        trainer.num_iterations_per_epoch = iterations
        for _ in range(epochs):
            trainer.epoch()
        trainer.network = torch.nn.Conv3d(2, 3, 1)
        trainer.perform_actual_validation()
        written = json.loads((Path(trainer.output_folder) / "cost.json").read_text())
        assert written["iterations_per_epoch"] == 7


def test_what_a_trainer_does_around_an_epoch_is_not_measured(make, monkeypatch):
    calls = []

    class Noting(Drawing):
        def on_epoch_start(self):
            calls.append("trainer starts")

        def on_epoch_end(self):
            calls.append("trainer ends")

    monkeypatch.setattr(CostRecord, "begin_epoch", lambda _: calls.append("measured from here"))
    monkeypatch.setattr(CostRecord, "end_epoch", lambda _, epoch, iterations: calls.append(f"epoch {epoch} measured"))
    make(Noting, run_with()).epoch()
    assert calls == ["trainer starts", "measured from here", "epoch 0 measured", "trainer ends"]


def test_a_network_that_cannot_be_traced_keeps_its_finished_training(make):
    class CannotBeTraced(Drawing):
        @staticmethod
        def build_network_architecture(*_):
            return LooksAtItsInput()

    trainer = make(CannotBeTraced, TRAINING, threads=1)
    trainer.epoch()
    trainer.network = LooksAtItsInput()
    trainer.perform_actual_validation()
    written = json.loads((Path(trainer.output_folder) / "cost.json").read_text())
    assert written["flops"] is None and written["parameters"] == 9 and written["seconds_per_epoch"] > 0
    assert written["dataset"] == TRAINING.dataset and written["threads"] == 1 and written["epochs"] == 1000
    assert "FLOPs cannot be counted: DataDependentOutputException" in Path(trainer.log_file).read_text()


@pytest.mark.parametrize(("counter", "total"), [([0, 5, 5, 12, 20, 50], 42), ([0, 5, 5, None, 20, 50], None)])
def test_what_a_finished_training_has_cost(make, monkeypatch, counter, total):
    """Epochs of 1, 2 and 9 seconds and of 5, 7 and 30 joules, or of one it is not known."""
    moments, joules = iter([0.0, 1.0, 10.0, 12.0, 20.0, 29.0]), iter(counter)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: next(moments)))
    monkeypatch.setattr(cost, "energy_counter", lambda _: lambda: next(joules))
    monkeypatch.setattr(cost, "forward_flops", lambda *_: 11)
    trainer = make(Drawing, run_with(20, 3, None, 5, seed=4), threads=1)
    for _ in range(3):
        trainer.epoch()
    trainer.network = torch.nn.Conv3d(2, 3, 1)
    trainer.perform_actual_validation()
    written = json.loads((Path(trainer.output_folder) / "cost.json").read_text())
    expected = {
        "seconds_per_epoch": 2.0, "energy_joules": total, "flops": 11, "parameters": 9, "epochs": 20,
        "iterations_per_epoch": 3, "batch_size": 5, "device_type": "cpu", "threads": 1, "fold": 0, "seed": 4,
    }  # fmt: skip
    assert expected.items() <= written.items()


def test_the_peak_memory_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda _: 5)
    for device, expected in (("cuda", (3, 5)), ("cpu", (None, None))):
        found = cost.peak_memory(torch.device(device))
        assert (found["allocated_bytes"], found["reserved_bytes"]) == expected


@pytest.mark.parametrize(("platform", "expected"), [("linux", 3 * 1024), ("darwin", 3)])
def test_the_peak_memory_of_a_process_is_in_bytes(monkeypatch, platform, expected):
    """Linux counts in KiB, macOS in bytes."""
    resource = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda _: SimpleNamespace(ru_maxrss=3))
    monkeypatch.setattr(usage, "resource", resource)
    monkeypatch.setattr(usage, "sys", SimpleNamespace(platform=platform))
    assert usage.process_peak() == expected


def test_the_energy_of_a_gpu_is_in_joules(monkeypatch):
    """The driver counts millijoules. It knows GPUs that CUDA_VISIBLE_DEVICES hides, so torch's is found by UUID."""
    asked, count = [], SimpleNamespace(millijoules=12_345)

    class NVMLError(Exception):
        pass

    def consumption(handle):
        if count.millijoules is None:
            raise NVMLError
        return count.millijoules

    driver = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=asked.append,
        nvmlDeviceGetTotalEnergyConsumption=consumption,
    )
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"of-{index}"))
    joules = energy.energy_counter(torch.device("cuda"))
    assert joules() == 12.345 and asked == ["GPU-of-0"]
    count.millijoules = None  # some GPUs have no counter
    assert energy.energy_counter(torch.device("cuda"))() is None
    assert joules() is None  # lost under a training


@pytest.mark.parametrize("read", [(None, 5), (5, None)])
def test_a_counter_that_is_lost_does_not_end_the_training(tmp_path, monkeypatch, read):
    values = iter(read)
    monkeypatch.setattr(cost, "energy_counter", lambda _: lambda: next(values))
    record = CostRecord(tmp_path, torch.device("cpu"), None)
    record.begin_epoch()
    record.end_epoch(0, 1)
    assert record.content["epochs"]["0"]["joules"] is None


LINUX_NAMES = pytest.mark.skipif(sys.platform == "win32", reason="Linux's files, whose names cannot be there")


@LINUX_NAMES
@pytest.mark.parametrize("step", ["train_step", "validation_step"])
def test_a_counter_may_wrap_several_times_in_an_epoch(make, tmp_path, monkeypatch, step):
    """It goes round after 1 J, and every step takes 0.6."""
    (tmp_path / "intel-rapl:0").mkdir()
    files = {name: tmp_path / "intel-rapl:0" / name for name in ("name", "max_energy_range_uj", "energy_uj")}
    for file, text in zip(files.values(), ("package-0", "1000000", "0"), strict=True):
        file.write_text(text)
    monkeypatch.setattr(energy, "_RAPL", tmp_path)

    class Using(Drawing):
        def train_step(self, batch):
            files["energy_uj"].write_text(str((int(files["energy_uj"].read_text()) + 600_000) % 1_000_000))

        validation_step = train_step

    trainer = make(Using, run_with())
    trainer.on_epoch_start()
    for _ in range(10):
        getattr(trainer, step)({})
    trainer.on_epoch_end()
    content = json.loads((Path(trainer.output_folder) / "cost_partial.json").read_text())
    assert content["epochs"]["0"]["joules"] == pytest.approx(6)


@LINUX_NAMES
def test_energy_counters_that_wrap(tmp_path, monkeypatch):
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
    joules = energy.energy_counter(torch.device("cpu"))
    before = joules()
    assert before == pytest.approx(1.8)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("100000")
    assert joules() - before == pytest.approx(0.2)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("50000")  # once more around
    assert joules() - before == pytest.approx(1.15) == joules() - before
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert joules() is None
    monkeypatch.setattr(energy, "_RAPL", tmp_path / "none")
    assert energy.energy_counter(torch.device("cpu"))() is None
