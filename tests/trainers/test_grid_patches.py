"""A scan's patches: where they lie, what they hold, how often they come."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.trainers import nnUNetTrainerMedSegMambaPaper
from nnunetv2_mamba.trainers.grid_patches import ScanPatches, endless_scans, grid_starts


@given(length=st.integers(1, 300), patch=st.integers(1, 120), positions=st.integers(1, 5))
def test_starts_cover_the_axis_evenly(length: int, patch: int, positions: int):
    starts = grid_starts(length, patch, positions)
    covered = {voxel for start in starts for voxel in range(start, start + patch)}
    assert covered >= set(range(length))
    if length <= patch:
        (start,) = starts
        assert abs(-start - (start + patch - length)) <= 1  # as much padding before as after
    else:
        assert starts[0] == 0 and (starts[-1] == length - patch or len(starts) == 1)
        assert len(starts) == max(positions, -(-length // patch))
        steps = np.diff(starts)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def test_the_papers_grid():
    assert grid_starts(256, 96, 3) == [0, 80, 160]


class FakeCases:
    """Two scans whose voxels are their own index; the segmentation is -1 in one corner (outside nnU-Net's mask)."""

    identifiers = ["a", "b"]

    def __init__(self, shape):
        self.shape = shape

    def load_case(self, name):
        image = np.arange(np.prod(self.shape), dtype=np.float32).reshape(1, *self.shape) + 1
        segmentation = (image.astype(np.int16) % 3).astype(np.int16)
        segmentation[(0,) * 4] = -1
        return image * (1 if name == "a" else -1), segmentation, None, {}


def transforms():
    return nnUNetTrainer.get_validation_transforms(None)


def test_patches_put_the_scan_together_again():
    cases = FakeCases((10, 7, 4))
    item = ScanPatches(cases, (4, 4, 6), 3, transforms())[0]
    assert item["keys"] == ["a"] * 9
    assert item["data"].shape == item["target"].shape == (9, 1, 4, 4, 6)
    image, segmentation, *_ = cases.load_case("a")
    rebuilt, labels = torch.zeros(10, 7, 4), torch.zeros(10, 7, 4, dtype=torch.int16)
    corners = [(d, h) for d in (0, 3, 6) for h in (0, 2, 3)]
    for (d, h), data, target in zip(corners, item["data"][:, 0], item["target"][:, 0], strict=True):
        rebuilt[d : d + 4, h : h + 4] = data[:, :, 1:5]
        labels[d : d + 4, h : h + 4] = target[:, :, 1:5]
        assert not data[:, :, [0, 5]].any() and not target[:, :, [0, 5]].any()  # padding is background
    assert torch.equal(rebuilt, torch.from_numpy(image[0]))
    assert torch.equal(labels, torch.from_numpy(np.maximum(segmentation[0], 0)))


def test_two_dimensions_take_one_slice():
    torch.manual_seed(0)
    scans = ScanPatches(FakeCases((5, 10, 7)), (4, 4), 3, transforms())
    slices = set()
    for _ in range(40):
        item = scans[0]
        assert item["data"].shape == (9, 1, 4, 4)
        slices |= {int(patch.min() - 1) // 70 for patch in item["data"]}
    assert slices == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("workers", [0, 1])
def test_every_scan_once_per_epoch(workers):
    scans = endless_scans(ScanPatches(FakeCases((6, 6, 6)), (4, 4, 4), 2, transforms()), workers, pin_memory=False)
    for _ in range(3):
        assert {next(scans)["keys"][0], next(scans)["keys"][0]} == {"a", "b"}


@pytest.mark.parametrize("depth", [6, 3])  # the latter smaller than the patch: padding is background
def test_previous_stage_becomes_channels(depth):
    class Cascade(FakeCases):
        def load_case(self, name):
            image, segmentation, _, properties = super().load_case(name)
            return image, segmentation, np.maximum(segmentation[0], 0), properties

    cascade = nnUNetTrainer.get_validation_transforms(None, is_cascaded=True, foreground_labels=[1, 2])
    item = ScanPatches(Cascade((depth, 6, 6)), (4, 4, 4), 2, cascade)[0]
    patches = 8 if depth > 4 else 4
    assert item["data"].shape == (patches, 3, 4, 4, 4) and item["target"].shape == (patches, 1, 4, 4, 4)
    for label in (1, 2):
        assert torch.equal(item["data"][:, label], (item["target"][:, 0] == label).float())


def test_accumulated_gradients_are_those_of_the_whole_scan(make_trainer):
    """However many patches go through the network at once, a step sees the mean over the scan."""
    gradients = {}
    for batch_size in (1, 2, 27):
        torch.manual_seed(0)
        trainer = make_trainer("nnUNetTrainerMedSegMambaPaper", "gradient_clip=1e6")
        trainer.configuration_manager.configuration["patch_size"] = [8, 8, 8]
        trainer.configuration_manager.configuration["batch_size"] = batch_size
        trainer.initialize()
        trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
        for module in trainer.network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.loss.weight_ce = 0.0  # its class weights are normalised within a part, the Dice is of each patch
        scan = ScanPatches(trainer.get_tr_and_val_datasets()[0], (8, 8, 8), 3, transforms())[0]
        assert len(scan["data"]) == 27
        loss = trainer.train_step(scan)["loss"]
        gradients[batch_size] = (loss, [p.grad for p in trainer.network.parameters()])
    for batch_size in (1, 2):
        torch.testing.assert_close(gradients[batch_size], gradients[27], rtol=1e-4, atol=1e-5)


def test_chunks_share_the_loss_by_their_patches():
    batch = {"data": torch.arange(7.0), "target": torch.arange(7.0)}
    parts = list(nnUNetTrainerMedSegMambaPaper.micro_batches(SimpleNamespace(batch_size=3), batch))
    assert [share for _, share in parts] == pytest.approx([3 / 7, 3 / 7, 1 / 7])
    assert torch.equal(torch.cat([part["data"] for part, _ in parts]), batch["data"])
