"""The papers' recipes, as far as they are published."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import nn

from nnunetv2_mamba.trainers import nnUNetTrainerMedSegMambaHippocampusPaper, nnUNetTrainerMedSegMambaPaper
from nnunetv2_mamba.trainers.papers import ScanGridRecipe

ALL_SCANS = "num_epochs=1"


@pytest.fixture
def small_patches(make_trainer):
    """The MedSegMamba paper's trainer with patches half as large as the scans."""

    def make(settings: str = ALL_SCANS, name: str = "nnUNetTrainerMedSegMambaPaper") -> nnUNetTrainer:
        trainer = make_trainer(name, settings)
        trainer.configuration_manager.configuration["patch_size"] = [8, 12, 12]
        return trainer

    return make


def test_lengths():
    assert nnUNetTrainerMedSegMambaPaper.recipe.num_epochs == 15
    assert nnUNetTrainerMedSegMambaHippocampusPaper.recipe.num_epochs == 63
    assert isinstance(nnUNetTrainerMedSegMambaPaper.recipe, ScanGridRecipe)


def test_an_epoch_is_one_step_per_scan_of_27_patches(small_patches):
    trainer = small_patches()
    seen = []
    micro_batches = trainer.micro_batches

    def watching(batch):
        for part, share in micro_batches(batch):
            if torch.is_grad_enabled():  # not in validation
                seen.append((len(part["data"]), share))
            yield part, share

    trainer.micro_batches = watching
    trainer.run_training()
    assert trainer.num_iterations_per_epoch == 4 and trainer.num_val_iterations_per_epoch == 2
    steps = trainer.optimizer.state_dict()["state"][0]["step"]
    assert steps == 4
    assert sum(patches for patches, _ in seen) == 4 * 27
    assert sum(share for _, share in seen) == pytest.approx(4)
    assert max(patches for patches, _ in seen) == 2  # the plan's batch size


def test_hippocampus_scans_are_one_patch(make_trainer):
    trainer = make_trainer("nnUNetTrainerMedSegMambaHippocampusPaper", ALL_SCANS)
    trainer.on_train_start()
    assert len(next(trainer.dataloader_train)["data"]) == 1


def test_settings_limit_the_scans(small_patches):
    trainer = small_patches("num_iterations_per_epoch=3, num_val_iterations_per_epoch=1, patches_per_axis=1")
    trainer.on_train_start()
    assert trainer.num_iterations_per_epoch == 3 and trainer.num_val_iterations_per_epoch == 1
    assert len(next(trainer.dataloader_train)["data"]) == 8  # 2 x 2 x 2 patches are needed to cover a scan


def test_cross_entropy_in_the_first_epoch_only(small_patches):
    trainer = small_patches()
    trainer.on_train_start()
    logits, target = torch.randn(2, 3, 8, 12, 12), torch.randint(0, 3, (2, 1, 8, 12, 12))
    losses = []
    for epoch in range(3):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        losses.append(trainer.loss(logits, target))
    dice = trainer.loss.dc(logits, target)
    cross_entropy = nn.functional.cross_entropy(logits, target[:, 0], weight=trainer.loss.ce.weight)
    torch.testing.assert_close(torch.stack(losses), torch.stack([dice + cross_entropy, dice, dice]))


def test_class_weights_come_from_the_training_scans(small_patches):
    trainer = small_patches()
    trainer.on_train_start()
    training, _ = trainer.get_tr_and_val_datasets()
    labels = np.concatenate([training.load_case(name)[1][:].ravel() for name in training.identifiers])
    frequencies = np.array([(labels == label).sum() for label in range(3)])
    np.testing.assert_allclose(trainer.loss.ce.weight, np.median(frequencies) / frequencies, rtol=1e-5)


def test_outside_of_the_mask_is_background_in_the_class_weights(small_patches, monkeypatch):
    """nnU-Net writes -1 into the segmentation where the image was masked out, and trains it as background."""
    trainer = small_patches()
    trainer.initialize()
    counts = {-1: 30, 0: 10, 1: 20, 2: 5}  # two scans: 80 of background, 40, 10; the median is 40
    labels = np.repeat(list(counts), list(counts.values())).astype(np.int16).reshape(1, 5, 13, 1)
    scans = SimpleNamespace(identifiers=["a", "b"], load_case=lambda name: (None, labels, None, {}))
    assert trainer._class_weights(scans).tolist() == pytest.approx([0.5, 1.0, 4.0])


def test_learning_rate_restarts_after_1_3_and_7_epochs(small_patches):
    trainer = small_patches("num_epochs=15")
    trainer.initialize()
    rates = []
    for quarter in range(15 * 4):
        trainer.lr_scheduler.step(quarter / 4)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    assert [quarter / 4 for quarter, rate in enumerate(rates) if rate == 3e-4] == [0, 1, 3, 7]
    assert rates[2] == pytest.approx(1.5e-4) and rates[-1] < 1e-6  # half-way through the first; the end of the last


def test_no_augmentation_and_no_mirroring(small_patches):
    trainer = small_patches()
    trainer.on_train_start()
    item = next(trainer.dataloader_train)
    image = trainer.get_tr_and_val_datasets()[0].load_case(item["keys"][0])[0][:]
    assert torch.equal(item["data"][0], torch.from_numpy(image[:, :8, :12, :12]))
    assert trainer.inference_allowed_mirroring_axes is None


def test_validation_counts_every_patch_of_a_scan(small_patches):
    trainer = small_patches()
    trainer.on_train_start()
    trainer.network.eval()
    scan = next(trainer.dataloader_val)
    with torch.no_grad():
        result = trainer.validation_step(scan)
        logits = trainer.network(scan["data"])
    predicted = logits.argmax(1)
    for index, label in enumerate((1, 2)):
        truth = scan["target"][:, 0] == label
        assert result["tp_hard"][index] == (truth & (predicted == label)).sum()
        assert result["fn_hard"][index] == (truth & (predicted != label)).sum()
        assert result["fp_hard"][index] == (~truth & (predicted == label)).sum()


def test_several_gpus_are_refused(small_patches):
    trainer = small_patches()
    trainer.is_ddp = True
    with pytest.raises(NotImplementedError, match="-num_gpus 1"):
        trainer.initialize()


def test_dropout_and_drop_path_of_the_paper(make_trainer, tiny_dataset):
    """On nnU-Net's own plans, where the network has the paper's widths and rates."""
    trainer = make_trainer("nnUNetTrainerMedSegMambaPaper", plans="nnUNetPlans")
    arguments = (trainer.plans_manager, trainer.configuration_manager, 2, 3, False)
    with torch.device("meta"):
        network = trainer.build_network_architecture(*arguments)
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.1}
    assert {m.drop_prob for m in network.modules() if type(m).__name__ == "DropPath"} == {0.3}


def test_segmamba_paper_is_cross_entropy_alone(make_trainer):
    trainer = make_trainer("nnUNetTrainerSegMambaPaper")
    trainer.initialize()
    logits, target = torch.randn(2, 3, 16, 24, 20), torch.randint(0, 3, (2, 1, 16, 24, 20))
    torch.testing.assert_close(trainer.loss(logits, target), nn.functional.cross_entropy(logits, target[:, 0]))
    recipe = type(trainer).recipe
    assert (recipe.num_epochs, recipe.num_iterations_per_epoch, recipe.gradient_clip) == (1000, 250, 12)
    assert trainer.optimizer.defaults["nesterov"] and trainer.optimizer.defaults["momentum"] == 0.99
    assert trainer.optimizer.defaults["lr"] == 1e-2


@pytest.mark.parametrize("regions", [False, True])
def test_segmamba_paper_is_cross_entropy_alone_with_deep_supervision_too(make_trainer, tiny_dataset, regions):
    dataset = tiny_dataset.dataset_json()
    if regions:
        dataset |= {"labels": {"background": 0, "both": [1, 2], "small": [2]}, "regions_class_order": [1, 2]}
    trainer = make_trainer("nnUNetTrainerSegMambaPaper", "enable_deep_supervision=true", dataset_json=dataset)
    trainer.initialize()
    shapes = [(2, trainer.label_manager.num_segmentation_heads, *size) for size in ((16, 24, 20), (8, 12, 10))]
    logits = [torch.randn(shape) for shape in shapes]
    if regions:
        target = [(torch.rand(shape) < 0.3).float() for shape in shapes]
        expected = nn.functional.binary_cross_entropy_with_logits(logits[0], target[0])
    else:
        target = [torch.randint(0, 3, (2, 1, *shape[2:])) for shape in shapes]
        expected = nn.functional.cross_entropy(logits[0], target[0][:, 0])
    torch.testing.assert_close(trainer.loss(logits, target), expected)  # of two scales nnU-Net weighs the first


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMambaPaper", "nnUNetTrainerMedSegMambaPaper"])
def test_regions_train(name, make_trainer, tiny_dataset):
    labels = {"background": 0, "both": [1, 2], "small": [2]}
    regions = {**tiny_dataset.dataset_json(), "labels": labels, "regions_class_order": [1, 2]}
    trainer = make_trainer(name, dataset_json=regions)
    trainer.run_training()
    assert trainer.label_manager.num_segmentation_heads == 2
    assert np.isfinite(trainer.logger.get_value("train_losses", step=-1))


@pytest.mark.parametrize("name", ["nnUNetTrainerSegMambaPaper", "nnUNetTrainerMedSegMambaPaper"])
def test_ignored_voxels_carry_no_gradient(name, make_trainer, tiny_dataset):
    labels = {"background": 0, "large": 1, "ignore": 2}
    trainer = make_trainer(name, dataset_json={**tiny_dataset.dataset_json(), "labels": labels})
    trainer.initialize()
    logits, target = torch.randn(1, 2, 4, 4, 4, requires_grad=True), torch.randint(0, 3, (1, 1, 4, 4, 4))
    trainer.loss(logits, target).backward()
    touched = logits.grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(touched, target != 2)
    logits.grad = None
    trainer.loss(logits, torch.full_like(target, 2)).backward()  # a batch of cases that nobody has annotated
    assert not logits.grad.any()
