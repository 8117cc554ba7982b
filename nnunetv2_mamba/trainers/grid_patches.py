"""Patches of a scan on a regular grid: the sampling of the MedSegMamba paper.

nnU-Net's data loader draws patches at random from random cases; here every scan comes once per epoch, with all its
patches, so this is a plain ``torch.utils.data.Dataset`` over nnU-Net's preprocessed cases.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch.utils.data import DataLoader, Dataset


def grid_starts(length: int, patch: int, positions: int) -> list[int]:
    """Return where patches start along one axis: evenly spaced from end to end.

    More than ``positions`` where it takes more to cover the axis; one, centred (it may start before 0), where the axis
    is no longer than the patch.
    """
    if length <= patch:
        return [(length - patch) // 2]
    return np.linspace(0, length - patch, max(positions, -(-length // patch))).round().astype(int).tolist()


class ScanPatches(Dataset):
    """Every item is one scan: its patches on a grid, as a batch in nnU-Net's form.

    Args:
        cases: nnU-Net's preprocessed cases.
        patch_size: of the plan; with two axes, a scan is one slice, drawn anew each time.
        positions: patches per axis.
        transforms: nnU-Net's transforms of one patch.
    """

    def __init__(self, cases: nnUNetBaseDataset, patch_size: Sequence[int], positions: int, transforms: BasicTransform):
        self.cases, self.patch_size, self.positions, self.transforms = cases, patch_size, positions, transforms

    def __len__(self) -> int:
        return len(self.cases.identifiers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return ``data`` (patches, channels, *patch), ``target`` (patches, 1 or regions, *patch) and ``keys``."""
        name = self.cases.identifiers[index]
        image, segmentation, previous_stage, _ = self.cases.load_case(name)
        patches = []
        for box in self._boxes(image.shape[1:]):
            data = torch.from_numpy(crop_and_pad_nd(image, box, 0)).float()
            target = torch.from_numpy(crop_and_pad_nd(segmentation, box, -1, cast_cropped_to=np.int16))
            if previous_stage is not None:
                previous = torch.from_numpy(crop_and_pad_nd(previous_stage, box, -1, cast_cropped_to=np.int16))
                target = torch.cat((target, previous[None]))
            if len(self.patch_size) == 2:
                data, target = data[:, 0], target[:, 0]
            patches.append(self.transforms(image=data, segmentation=target))
        return {
            "data": torch.stack([patch["image"] for patch in patches]),
            "target": torch.stack([patch["segmentation"] for patch in patches]),
            "keys": [name] * len(patches),
        }

    def _boxes(self, shape: Sequence[int]) -> Iterator[list[list[int]]]:
        dims = len(self.patch_size)
        starts = [grid_starts(*sizes, self.positions) for sizes in zip(shape[-dims:], self.patch_size, strict=True)]
        sizes = list(self.patch_size)
        if dims == 2:
            starts.insert(0, [int(torch.randint(shape[0], ()))])
            sizes.insert(0, 1)
        for corner in itertools.product(*starts):
            yield [[start, start + size] for start, size in zip(corner, sizes, strict=True)]


def endless_scans(scans: ScanPatches, workers: int, pin_memory: bool) -> Iterator[dict[str, Any]]:
    """Yield the scans over and over, in a new order each time, loaded by ``workers`` background processes."""
    loader = DataLoader(
        scans, batch_size=None, shuffle=True, num_workers=workers, pin_memory=pin_memory, persistent_workers=workers > 0
    )
    while True:
        yield from loader
