"""The numbers of the trainings: nnU-Net's own, the documented ones, and where the allowed ones end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_mamba import trainers
from nnunetv2_mamba.trainers.ema_teacher import EMATeacher
from nnunetv2_mamba.trainers.grid_patches import ScanPatches, endless_scans
from nnunetv2_mamba.trainers.nonfinite import NonFiniteCounter, NonFiniteError, finite, first_non_finite
from nnunetv2_mamba.trainers.optimizers import WarmupPolyLR, fused_option
from nnunetv2_mamba.trainers.papers import ScanGridRecipe
from nnunetv2_mamba.trainers.recipe import Recipe
from nnunetv2_mamba.trainers.resumable_trainer import differences, settings_to_adopt
from nnunetv2_mamba.trainers.settings import with_settings


def test_the_defaults_are_nnunets(make_trainer):
    theirs, recipe = make_trainer(nnUNetTrainer, settings=""), Recipe()
    for name in (
        "num_epochs", "num_iterations_per_epoch", "num_val_iterations_per_epoch", "initial_lr", "weight_decay",
        "oversample_foreground_percent", "probabilistic_oversampling", "enable_deep_supervision", "save_every",
    ):  # fmt: skip
        assert getattr(recipe, name) == getattr(theirs, name), name
    theirs.network = nn.Linear(1, 1)
    optimizer, scheduler = theirs.configure_optimizers()
    assert (recipe.optimizer, recipe.momentum) == ("sgd", optimizer.defaults["momentum"])
    assert recipe.warmup_share == 0 and recipe.mirroring and not recipe.activation_checkpointing
    assert theirs.train_step.__code__.co_consts.count(12) == 1 and recipe.gradient_clip == 12  # nnU-Net's clip


def test_a_batch_is_one_part_and_all_of_the_loss(make_trainer):
    batch = {"data": None}
    assert list(make_trainer("nnUNetTrainerSegMamba").micro_batches(batch)) == [(batch, 1)]


def test_the_papers_numbers():
    medsegmamba = trainers.nnUNetTrainerMedSegMambaPaper.recipe
    assert (medsegmamba.optimizer, medsegmamba.initial_lr, medsegmamba.weight_decay) == ("adamw", 3e-4, 1e-2)
    assert (medsegmamba.save_every, medsegmamba.patches_per_axis, medsegmamba.first_restart) == (1, 3, 1)
    assert medsegmamba.num_iterations_per_epoch == medsegmamba.num_val_iterations_per_epoch == 0  # all scans
    assert not medsegmamba.enable_deep_supervision
    hippocampus = trainers.nnUNetTrainerMedSegMambaHippocampusPaper.recipe
    assert (hippocampus.patches_per_axis, hippocampus.num_epochs) == (1, 63)
    assert not trainers.nnUNetTrainerSegMambaPaper.recipe.enable_deep_supervision
    default = trainers.nnUNetTrainerMedSegMamba.recipe
    assert (default.optimizer, default.initial_lr, default.weight_decay) == ("adamw", 3e-4, 5e-2)
    assert (default.warmup_share, default.gradient_clip) == (0.05, 1.0)


@pytest.mark.parametrize(
    ("name", "initial_lr", "weight_decay", "warmup_share", "deep_supervision"),
    [
        ("UNETR", 1e-4, 1e-5, 0.01, False),
        ("SwinUNETR", 1e-4, 1e-5, 0.17, False),
        ("SegResNet", 1e-4, 1e-5, 0, False),
        ("SegResNetDS", 2e-4, 1e-5, 0.01, True),
        *((f"MedNeXt{size}", 1e-3, 3e-5, 0, True) for size in ("", "B", "M", "L")),
    ],
)
def test_numbers_of_the_networks_made_of_monais_blocks(name, initial_lr, weight_decay, warmup_share, deep_supervision):
    """Their authors', but for MedNeXt's weight decay, which is nnU-Net's; docs/networks/monai.md has the sources."""
    recipe = trainers.FULL_LENGTH[f"nnUNetTrainer{name}"].recipe
    assert (recipe.optimizer, recipe.initial_lr, recipe.weight_decay) == ("adamw", initial_lr, weight_decay)
    assert (recipe.warmup_share, recipe.enable_deep_supervision) == (warmup_share, deep_supervision)


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("num_epochs", (1, 1_000_000), (0, 1_000_001)),
        ("num_iterations_per_epoch", (1, 1_000_000), (0, 1_000_001)),
        ("num_val_iterations_per_epoch", (1, 1_000_000), (0, 1_000_001)),
        ("save_every", (1, 1_000_000), (0, 1_000_001)),
        ("initial_lr", (1e-30, 100), (0, -1e-9, 100.1)),
        ("weight_decay", (0, 100), (-1e-9, 100.1)),
        ("momentum", (0, 1), (-1e-9, 1.001)),
        ("warmup_share", (0, 1), (-1e-9, 1.001)),
        ("gradient_clip", (1e-30, 1e300), (0, -1)),
        ("oversample_foreground_percent", (0, 1), (-1e-9, 1.001)),
    ],
)
def test_where_the_allowed_numbers_end(name, taken, refused):
    for value in taken:
        assert getattr(with_settings(Recipe(), {name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"{name} must be a (whole )?number"):
            with_settings(Recipe(), {name: value})


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("patches_per_axis", 1), ("num_iterations_per_epoch", 0),
        ("num_val_iterations_per_epoch", 0), ("first_restart", 1),
    ],
)  # fmt: skip
def test_where_the_scan_grids_numbers_begin(name, lowest):
    assert getattr(with_settings(ScanGridRecipe(), {name: lowest}), name) == lowest
    with pytest.raises(ValueError, match=f"{name} must be a whole number of at least {lowest}"):
        with_settings(ScanGridRecipe(), {name: lowest - 1})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("num_epochs", 0, "num_epochs must be a whole number of at least 1, got 0"),
        ("num_epochs", 2_000_000, "num_epochs must be a whole number of at least 1 and at most 1000000, got 2000000"),
        ("momentum", 2, "momentum must be a number of at least 0 and at most 1, got 2"),
        ("gradient_clip", 0, "gradient_clip must be a number above 0, got 0"),
        ("mirroring", "yes", "mirroring must be true or false, got 'yes'"),
    ],
)
def test_what_is_said_of_a_wrong_number(name, value, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        Recipe(**{name: value})


def test_fused_optimisers_where_every_torch_has_them():
    devices = ("cpu", "cuda", "mps", "meta")
    assert [fused_option(torch.device(device)) for device in devices] == [True, True, None, None]


def test_a_schedule_without_warm_up_is_nnunets():
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1)
    scheduler = WarmupPolyLR(optimizer, 0.1, max_steps=10, warmup_steps=0)
    assert optimizer.param_groups[0]["lr"] == 0.1
    scheduler.step(0)
    assert optimizer.param_groups[0]["lr"] == 0.1
    scheduler = WarmupPolyLR(optimizer, 0.1, max_steps=10, warmup_steps=2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.001)  # from its first moment on
    scheduler.step(2)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.8**0.9)


def test_ten_steps_in_a_row_are_too_many():
    counter = NonFiniteCounter()
    seen = []
    for good in (False, True, *[False] * 10):
        counter.count(good)
        seen.append((counter.in_a_row, counter.total, counter.exhausted))
    assert seen == [(1, 1, False), (0, 1, False), *((n, n + 1, n >= 10) for n in range(1, 11))]
    assert issubclass(NonFiniteError, RuntimeError)


def test_finite():
    for bad in (math.nan, math.inf, -math.inf):
        assert not finite(torch.tensor([1.0, bad]))
    assert finite(torch.tensor([1.0, -1e30])) and finite(torch.empty(0))


class Parts(nn.Module):
    """Two outputs, in a tuple in a list, of which one may be bad; and a weight that is not used."""

    def __init__(self, bad: float = 1.0):
        super().__init__()
        self.bad = bad
        self.weight = nn.Parameter(torch.ones(1))
        self.unused = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return [(x * self.weight, None), x * self.bad]


class Outer(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.first, self.second = nn.Linear(1, 1), Parts(**options)

    def forward(self, x):
        ((x, _), y) = self.second(self.first(x))
        return x + y


def search(network, loss_of=torch.sum, others=()):
    data = torch.ones(1, 1)
    return first_non_finite(network, data, lambda: loss_of(network(data)), [*network.named_parameters(), *others])


def test_bad_numbers_inside_of_lists_are_found_in_the_innermost_module():
    network = Outer(bad=math.inf)
    assert search(network) == "the output of second, a Parts"
    assert not any(module._forward_hooks for module in network.modules())
    network.first.register_forward_hook(lambda _module, _inputs, output: output * math.nan)
    assert search(network) == "the output of first, a Linear"  # it comes before


def test_a_bad_loss_and_a_bad_gradient():
    network = Outer()
    assert search(network) is None
    assert search(network, lambda y: y.sum() * math.inf) == "the loss, from finite logits"
    network.first.weight.register_hook(lambda gradient: gradient * math.inf)
    assert search(network) == "the gradient of first.weight"
    network.second.weight.register_hook(lambda gradient: gradient * math.inf)
    assert search(network) == "the gradient of second.weight"  # the last of them: the first in the backward pass
    weight = nn.Parameter(torch.ones(1))
    weight.register_hook(lambda gradient: gradient * math.inf)
    others = [("loss.weight", weight)]
    assert search(network, lambda y: (y * weight).sum(), others) == "the gradient of loss.weight"


def test_what_a_checkpoint_hands_on():
    recipe = Recipe(num_epochs=5, momentum=0.5)
    saved = {"num_epochs": 7, "momentum": 0.25, "weight_decay": recipe.weight_decay, "of_a_later_version": 1}
    assert settings_to_adopt(recipe, saved, {"momentum"}, ("optimizer",)) == {"num_epochs": 7}
    assert settings_to_adopt(recipe, saved, (), ("optimizer",)) == {"num_epochs": 7, "momentum": 0.25}
    assert settings_to_adopt(recipe, {"optimizer": "adamw"}, (), ("optimizer",)) == {"optimizer": "adamw"}
    with pytest.raises(ValueError, match="sets optimizer='sgd', but the training to continue uses 'adamw'"):
        settings_to_adopt(recipe, {"optimizer": "adamw"}, {"optimizer"}, ("optimizer",))
    assert settings_to_adopt(recipe, {"optimizer": "sgd"}, {"optimizer"}, ("optimizer",)) == {}
    with pytest.raises(ValueError, match="num_epochs must be"):
        settings_to_adopt(recipe, {"num_epochs": 0}, (), ())
    assert differences({"a": 1, "b": 2, "c": 3}, {"a": 1, "b": "x"}) == {"b": "2 in the checkpoint, 'x' now"}


class Head(nn.Module):
    """With the switch that networks have on their decoder."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2, 1, bias=False)
        self.decoder.deep_supervision = True

    def forward(self, x):
        return self.decoder(x)


def test_an_ema_teacher_starts_as_the_student_unless_it_has_begun():
    student = Head()
    teacher = EMATeacher(student, 0.9, compiled=False)
    with torch.no_grad():
        student.decoder.weight.fill_(2.0)  # loaded in the meantime
    teacher.start(student)
    assert (teacher(torch.ones(1, 2)) == 4).all()
    teacher.update(student)
    with torch.no_grad():
        student.decoder.weight.fill_(7.0)
    teacher.start(student)
    assert (teacher(torch.ones(1, 2)) == 4).all()
    module = teacher._average.module
    assert not module.training and not module.decoder.deep_supervision and not module.decoder.weight.requires_grad


class Names:
    """Scans without voxels to speak of."""

    identifiers = [str(i) for i in range(8)]

    def load_case(self, name):
        return np.zeros((1, 2, 2, 2), np.float32), np.zeros((1, 2, 2, 2), np.int16), None, {}


def test_scans_come_in_a_new_order_in_every_epoch():
    torch.manual_seed(0)
    scans = endless_scans(ScanPatches(Names(), (2, 2, 2), 1, nnUNetTrainer.get_validation_transforms(None)), 0, False)
    epochs = [[next(scans)["keys"][0] for _ in range(8)] for _ in range(3)]
    assert all(sorted(epoch) == Names.identifiers for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, Names.identifiers]}) == 4
