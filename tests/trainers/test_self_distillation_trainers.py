"""Self-distillation through the trainer: what it logs and keeps, how it continues, in one process and in two."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from matplotlib import image
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tiny_dataset import NAME, TinyDataset
from torch import nn

from nnunetv2_mamba.architectures.msd_kmamba.kan.basis import BasisConv
from nnunetv2_mamba.losses.distillation_gates import GATES
from nnunetv2_mamba.losses.distillation_statistics import EpochMeans
from nnunetv2_mamba.losses.self_distillation import TEACHERS
from nnunetv2_mamba.trainers import nnUNetTrainerMSDKMamba
from nnunetv2_mamba.trainers.distillation_history import lines, record
from nnunetv2_mamba.trainers.ema_teacher import EMATeacher
from nnunetv2_mamba.trainers.self_distillation import SelfDistillationRecipe

AT_ONCE = {"distillation_warmup_share": 0, "distillation_ramp_share": 0}
KEY = "nnunetv2_mamba_distillation"
PLANS = "fourStagesPlans"  # three supervised resolutions, of which nnU-Net weighs two: one student


@pytest.fixture
def four_stages(tiny_dataset: TinyDataset) -> TinyDataset:
    """The tiny data set with a plan of four stages: with three, nnU-Net weighs only the full resolution."""
    plans = tiny_dataset.plans("tinyMSDKMambaPlans")
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"] = [8, 16, 16]
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=4,
        features_per_stage=[8] * 4,
        kernel_sizes=[[3, 3, 3]] * 4,
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    )
    tiny_dataset.write_plans(PLANS, plans)
    return tiny_dataset


@pytest.fixture
def make(four_stages, make_trainer):
    """``nnUNetTrainerMSDKMamba`` or a variant on that plan, two short epochs, with the settings given."""

    def make(variant: str = "", **settings) -> nnUNetTrainer:
        settings = {"num_epochs": 2, "num_iterations_per_epoch": 2, "num_val_iterations_per_epoch": 1, **settings}
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in settings.items())
        return make_trainer(f"nnUNetTrainerMSDKMamba{variant}", text, PLANS)

    return make


def train(trainer: nnUNetTrainer, epochs: int) -> None:
    """Train ``epochs`` more epochs, as a training that is stopped there does."""
    trainer.on_train_start()
    for _ in range(epochs):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(2)])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()


def log_of(trainer) -> str:
    return Path(trainer.log_file).read_text()


def batch_of(trainer) -> tuple[torch.Tensor, list[torch.Tensor]]:
    batch = next(trainer.dataloader_train)
    return batch["data"], batch["target"]


@pytest.mark.parametrize(
    "variant",
    [pytest.param("", marks=pytest.mark.slow), pytest.param("FusedTeacher", marks=pytest.mark.slow), "EMATeacher"],
)
def test_log_picture_and_history(make, variant):
    trainer = make(variant, **AT_ONCE)
    trainer.run_training()
    log = log_of(trainer)
    assert log.count("Scale 0: segmentation loss") == log.count("Scale 1: segmentation loss") == 2
    for name in ("distillation loss", "share gated", "teacher Dice", "student Dice"):
        assert log.count(name) == 2  # one student, two epochs
    assert f"teacher = {trainer.recipe.teacher!r}" in log and "temperature = 3.0" in log
    assert image.imread(Path(trainer.output_folder) / "distillation.png").shape[:2] == (800, 1200)
    saved = torch.load(Path(trainer.output_folder) / "checkpoint_final.pth", weights_only=False)
    history = saved[KEY]["history"]
    assert [entry["epoch"] for entry in history] == [0, 1] and [entry["weight"] for entry in history] == [0.5, 0.5]
    for entry in history:
        row = entry["scales"][1]
        assert set(entry["scales"]) == {0, 1} and all(map(math.isfinite, row.values()))
        assert 0 <= row["gated"] <= 1 and 0 <= row["student_dice"] <= 1
        assert (row["distillation"] > 0) == (row["gated"] < 1)  # a gate that closes on every voxel leaves nothing
    assert saved["nnunetv2_mamba_settings"]["distillation_weight"] == 0.5


def test_record_and_lines_say_whose_dice_it_is_and_leave_the_background_out():
    dice = torch.tensor([[[0.9, 0.2, 0.4, math.nan], [0.9, 0.5, 0.9, math.nan]]])
    means = EpochMeans(torch.tensor([-0.5, 0.25]), torch.tensor([0.125]), torch.tensor([0.75]), dice)
    entry = record(3, 0.5, [0, 1], [1], slice(1, None), means)
    assert (entry["epoch"], entry["weight"]) == (3, 0.5) and entry["scales"][0] == {"segmentation": -0.5}
    assert lines(entry) == [
        "Scale 0: segmentation loss -0.5000",
        "Scale 1: segmentation loss 0.2500, distillation loss 0.1250, share gated 0.7500, teacher Dice 0.3000, "
        "student Dice 0.7000",
    ]


def test_learned_weights_are_not_decayed(make):
    trainer = initialized(make(uncertainty_weighting=True))
    (group,) = [group for group in trainer.optimizer.param_groups if group["params"] == [*trainer.loss.parameters()]]
    assert group["weight_decay"] == 0


def test_learned_weights_are_clipped_and_checked_as_all_that_is_trained(make):
    """A term of 10,000 would move its weight by as much; a NaN in its gradient alone must not be applied."""
    trainer = make(uncertainty_weighting=True, gradient_clip=0.5, **AT_ONCE)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    (learned,) = trainer.loss.uncertainty.parameters()
    everything = [*trainer.network.parameters(), learned]
    handle = learned.register_hook(lambda gradient: gradient * 1e4)
    trainer.train_step(next(trainer.dataloader_train))
    gradients = [parameter.grad for parameter in everything if parameter.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(0.5, rel=1e-3)
    assert learned.grad.abs().max() <= 0.5
    handle.remove()
    before = [parameter.detach().clone() for parameter in everything]
    learned.register_hook(lambda gradient: gradient * math.nan)
    trainer.train_step(next(trainer.dataloader_train))
    assert all(torch.equal(old, new) for old, new in zip(before, everything, strict=True))
    assert "came first from the gradient of loss.uncertainty.log_variances" in log_of(trainer)


@pytest.mark.parametrize("variant", ["", "FusedTeacher", "EMATeacher"])
def test_training_loss_has_the_distillation_and_validation_loss_has_not(make, variant):
    trainer = make(variant, **AT_ONCE)
    trainer.on_train_start()
    trainer.on_train_epoch_start()
    data, target = batch_of(trainer)
    nnunet = DeepSupervisionWrapper(trainer.loss.segmentation_loss, trainer.loss.weights)
    with torch.no_grad():
        expected = nnunet(trainer.network(data), target)
        assert trainer.loss(trainer.network(data), target) == expected
        step = trainer.validation_step({"data": data, "target": [scale.clone() for scale in target]})
    assert step["loss"] == expected.numpy()
    assert trainer.compute_loss(data, target, progress=0.5) > expected + (0.1 if variant == "FusedTeacher" else 0)


def test_controls_train_with_nnunets_loss(make):
    for variant, settings in (("NoDistillation", {}), ("EMATeacher", {"distillation_weight": 0})):
        trainer = make(variant, **settings)
        trainer.on_train_start()
        data, target = batch_of(trainer)
        nnunet = DeepSupervisionWrapper(trainer.loss.segmentation_loss, trainer.loss.weights)
        assert trainer.compute_loss(data, target, progress=0.5) == nnunet(trainer.network(data), target)
        assert trainer.ema is None


def test_ramp_follows_the_iterations(make):
    trainer = make(distillation_warmup_share=0.25, distillation_ramp_share=0.5)
    trainer.on_train_start()
    weights, weight_at = [], trainer.loss.weight_at
    trainer.loss.weight_at = lambda progress: weights.append(weight_at(progress)) or weights[-1]
    for trainer.current_epoch in (0, 1):
        trainer.on_train_epoch_start()
        for _ in range(2):
            trainer.train_step(next(trainer.dataloader_train))
    weights = weights[::2]  # asked for twice in a step
    assert weights == pytest.approx([0.0, *(0.5 * math.exp(-5 * (1 - u) ** 2) for u in (0, 0.5, 1))])


@pytest.mark.parametrize("variant", [pytest.param("FusedTeacher", marks=pytest.mark.slow), "EMATeacher"])
def test_resume_continues_the_distillation(make, variant):
    first = make(variant, num_epochs=4, save_every=1, uncertainty_weighting=True, **AT_ONCE)
    first.initialize()
    start = first.loss.uncertainty.log_variances.detach().clone()
    train(first, 2)
    second = make(variant, num_epochs=3)
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert second.recipe.uncertainty_weighting and len(second.history) == 2 and second.history == first.history
    torch.testing.assert_close(second.loss.brake.state_dict(), first.loss.brake.state_dict(), equal_nan=True)
    assert torch.equal(second.loss.brake.braked, first.loss.brake.braked)
    assert torch.equal(second.loss.uncertainty.log_variances, first.loss.uncertainty.log_variances)
    assert not torch.equal(second.loss.uncertainty.log_variances, start)
    if variant == "EMATeacher":
        torch.testing.assert_close(second.ema.state_dict(), first.ema.state_dict(), rtol=0, atol=0)
        assert second.ema.state_dict()["n_averaged"] == 4
    second.run_training()
    assert [entry["epoch"] for entry in second.history] == [0, 1, 2]


def test_an_epoch_that_sigterm_ended_is_in_the_history_once(make):
    """The signal comes after the last step of epoch 1, whose record is there by then."""
    first = make(save_every=1)
    train(first, 1)
    first.on_train_epoch_start()
    first.on_train_epoch_end([first.train_step(next(first.dataloader_train)) for _ in range(2)])
    first._save_for_continuation("SIGTERM")
    second = make()
    second.load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))
    assert [entry["epoch"] for entry in first.history] == [0, 1] and second.current_epoch == 1
    assert [entry["epoch"] for entry in second.history] == [0]


def test_the_ema_teacher_starts_from_pretrained_weights(make):
    trainer = make("EMATeacher")
    trainer.initialize()
    for parameter in trainer.network.parameters():
        nn.init.constant_(parameter, 0.01)  # as nnUNetv2_train -pretrained_weights, after initialize()
    trainer.on_train_start()
    for name, value in trainer.network.state_dict().items():
        assert torch.equal(trainer.ema.state_dict()[f"module.{name}"], value)
    average = trainer.ema.state_dict()
    average["n_averaged"] += 1
    average["module.encoder.stem.0.bias"] += 1
    trainer.ema.start(trainer.network)  # a training that continues
    assert not torch.equal(trainer.ema.state_dict()["module.encoder.stem.0.bias"], trainer.network.encoder.stem[0].bias)


@pytest.mark.parametrize("setting", [{"teacher": "ema"}, {"uncertainty_weighting": True}])
def test_resume_refuses_what_the_checkpoint_has_no_tensors_for(make, setting):
    first = make(save_every=1)
    train(first, 1)
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.*without --c"):
        make(**setting).load_checkpoint(str(Path(first.output_folder) / "checkpoint_latest.pth"))


def test_resume_takes_a_checkpoint_of_a_training_without_distillation(make, tmp_path):
    first = make("NoDistillation", teacher="ema")
    first.initialize()
    first.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    second = make(distillation_weight=0.5)
    second.load_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert second.ema is not None and second.history == []
    train(second, 1)


def test_teacher_by_setting(make):
    """The settings alone give the network of the ``FusedTeacher`` class, and nothing is left of it in prediction."""
    trainer, fused = make(teacher="fused"), make("FusedTeacher")
    for each in (trainer, fused):
        each.initialize()
    assert trainer.network.state_dict().keys() == fused.network.state_dict().keys()
    assert type(trainer).__name__ == "nnUNetTrainerMSDKMamba" and "build_network_architecture" not in vars(trainer)
    extra = trainer.network.state_dict().keys() - initialized(make()).network.state_dict().keys()
    assert extra == {"fused_head.weight"}
    arguments = (trainer.plans_manager, trainer.configuration_manager, 2, 3, False)
    predicting = nnUNetTrainerMSDKMamba.build_network_architecture(*arguments)
    predicting.load_state_dict(trainer.network.state_dict())
    assert not extra & predicting.state_dict().keys() and not hasattr(predicting.decoder.seg_layers, "1")


def initialized(trainer: nnUNetTrainer) -> nnUNetTrainer:
    trainer.initialize()
    return trainer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"enable_deep_supervision": False}, "no lower-resolution head"),
        ({"uncertainty_weighting": True, "distillation_weight": 0}, "leave one of them out"),
        ({"teacher": "mean"}, "one of 'final', 'fused', 'ema'"),
        ({"gate": "hard"}, "one of 'advantage', 'confidence', 'correct', 'none'"),
        ({"enable_deep_supervision": False, "distillation_weight": 0, "teacher": "fused"}, "to teach or to fuse"),
        ({"temperature": 0}, "temperature must be a number of at least 0.1 and at most 100"),
        ({"temperature": 1000}, "at most 100"),
        ({"distillation_weight": -0.5}, "distillation_weight must be a number of at least 0"),
        ({"lambda": 1}, "unknown setting lambda; .*distillation_weight, temperature, teacher"),
    ],
)
def test_settings_that_do_not_fit_are_refused(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_the_plan_chooses_the_kan(four_stages, make):
    plans = four_stages.plans(PLANS)
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["kan"] = "rbf"
    four_stages.write_plans(PLANS, plans)
    for variant, kan in (("", "rbf"), ("NoKAN", "mlp")):
        network = initialized(make(variant)).network
        first = network.encoder.stages[0].kan[1]
        assert isinstance(first, BasisConv if kan == "rbf" else nn.Conv3d)


def test_deep_supervision_can_be_off_without_distillation(make):
    trainer = make("NoDistillation", enable_deep_supervision=False)
    trainer.run_training()
    assert [list(entry["scales"]) for entry in trainer.history] == [[0], [0]]


def test_the_defaults_are_those_of_the_documentation():
    recipe = SelfDistillationRecipe()
    shares = (recipe.distillation_warmup_share, recipe.distillation_ramp_share)
    assert (recipe.distillation_weight, recipe.temperature, recipe.gate, recipe.teacher) == (
        0.5,
        3,
        "advantage",
        "final",
    )
    assert shares == (50 / 1000, 100 / 1000) and recipe.brake
    assert not recipe.standardise_logits and not recipe.uncertainty_weighting


def test_the_settings_choices_are_those_of_the_loss():
    types = get_type_hints(SelfDistillationRecipe)
    assert {*get_args(types["teacher"])} == {*TEACHERS} and {*get_args(types["gate"])} == {*GATES}


# the EMA teacher


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 2)
        self.decoder.deep_supervision = True
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x):
        return [self.decoder(x)] if self.decoder.deep_supervision else self.decoder(x)


def test_ema_teacher_averages_with_a_rising_decay():
    student = Toy()
    teacher = EMATeacher(student, 0.3, compiled=False)
    expected = None
    for step in range(5):
        with torch.no_grad():
            student.decoder.weight.normal_()
            student.steps += 1
        teacher.update(student)
        weight = student.decoder.weight.detach().clone()
        decay = min(0.3, (1 + step) / (10 + step))
        expected = weight if step == 0 else decay * expected + (1 - decay) * weight
        torch.testing.assert_close(teacher.state_dict()["module.decoder.weight"], expected)
    assert teacher.state_dict()["module.steps"] == 5
    assert student.decoder.deep_supervision and not teacher(torch.ones(1, 2)).requires_grad


def test_compiled_ema_teacher_keeps_bare_names(monkeypatch):
    """nnU-Net compiles on CUDA only; here with a backend that compiles nothing."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    student = Toy()
    teacher = EMATeacher(student, 0.5, compiled=True)
    teacher.update(student)
    torch.testing.assert_close(teacher(torch.ones(1, 2)), student(torch.ones(1, 2))[0].detach())
    assert teacher.state_dict().keys() == {"n_averaged", *(f"module.{name}" for name in student.state_dict())}


# regions


@pytest.fixture
def tumours(four_stages, monkeypatch, tmp_path) -> dict:
    """Preprocessed cases of 4 channels, with whole tumour, core and enhancing part inside each other."""
    source, name = four_stages.preprocessed / NAME, "Dataset902_Regions"
    folder = tmp_path / "preprocessed" / name
    plans = {**json.loads((source / f"{PLANS}.json").read_text()), "dataset_name": name}
    cases = folder / plans["configurations"]["3d_fullres"]["data_identifier"]
    cases.mkdir(parents=True)
    dataset = {
        "channel_names": {str(index): f"MR{index}" for index in range(4)},
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
        "regions_class_order": [1, 2, 3],
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    for channel in ("normalization_schemes", "use_mask_for_norm"):
        plans["configurations"]["3d_fullres"][channel] *= 2  # of two channels
    rng = np.random.default_rng(0)
    radius = np.linalg.norm(np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in (12, 20, 20)), indexing="ij")), axis=0)
    for index in range(6):
        labels = sum((radius < limit).astype(np.int16) for limit in rng.uniform(0.8, 1.2) * np.array([6, 4, 2.5]))
        images = np.stack([labels == label for label in range(4)]) + 0.2 * rng.standard_normal((4, *labels.shape))
        locations = {label: np.argwhere(labels[None] >= label[0]) for label in ((1, 2, 3), (2, 3), (3,))}
        properties = {"class_locations": locations}
        chunks = {key: labels[None].shape for key in ("chunks_seg", "blocks_seg")}
        chunks |= {key: images.shape for key in ("chunks", "blocks")}
        target = str(cases / f"case_{index}")
        nnUNetDatasetBlosc2.save_case(images.astype(np.float32), labels[None], properties, target, **chunks)
    for file, content in ((f"{PLANS}.json", plans), ("dataset.json", dataset)):
        (folder / file).write_text(json.dumps(content))
    (folder / "dataset_fingerprint.json").write_bytes((source / "dataset_fingerprint.json").read_bytes())
    monkeypatch.setenv("nnUNet_preprocessed", str(folder.parent))
    return {"plans": {**plans, "continue_training": False}, "dataset_json": dataset}


def test_regions_of_four_channels_train_with_sigmoid_heads(tumours, monkeypatch):
    settings = "num_epochs=3, num_iterations_per_epoch=8, num_val_iterations_per_epoch=2, momentum=0.9"
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", settings)
    torch.manual_seed(0)
    np.random.seed(0)
    trainer = nnUNetTrainerMSDKMamba(**tumours, configuration="3d_fullres", fold=0, device=torch.device("cpu"))
    trainer.run_training()
    losses = trainer.logger.get_value("train_losses", step=None)
    assert losses[-1] < losses[0] - 0.05
    assert len(trainer.logger.get_value("dice_per_class_or_region", step=-1)) == 3
    row = trainer.history[-1]["scales"][1]
    assert row["distillation"] > 0 and 0 <= row["student_dice"] <= 1
    assert trainer.loss.brake.braked.shape == (1, 3)


def test_standardised_logits_are_refused_for_regions(tumours, monkeypatch):
    monkeypatch.setenv("NNUNETV2_MAMBA_SETTINGS", "standardise_logits=true")
    trainer = nnUNetTrainerMSDKMamba(**tumours, configuration="3d_fullres", fold=0, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="standardise_logits needs labels of three exclusive classes"):
        trainer.initialize()


# several processes


@pytest.mark.slow
def test_two_processes_train_alike_with_every_teacher(four_stages, tmp_path):
    """DDP without find_unused_parameters; data differ between the processes, what is learned does not."""
    folder = four_stages.preprocessed / NAME
    script = Path(__file__).with_name("distributed_distillation.py")
    arguments = [tmp_path / "meeting_point", folder / "dataset.json", folder / f"{PLANS}.json", tmp_path]
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), *map(str, arguments)],
            env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(first) == 3
    for name in first:
        assert first[name] == second[name], name
        assert first[name]["without_gradient"] == []
        assert bool(first[name]["teacher"]) == name.endswith("EMATeacher")
        assert first[name]["history"][-1]["scales"]["1"]["distillation"] > 0
