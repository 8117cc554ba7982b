"""Trainers that follow the papers' own recipes, as far as they are published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts

from nnunetv2_mamba.losses import median_frequency_weights

from .accumulation import AccumulatingRecipe, AccumulatingTrainer
from .base import of_one_scale
from .grid_patches import ScanPatches, endless_scans
from .of_networks import TRAINERS
from .optimizers import fused_option
from .recipe import Recipe, number


class nnUNetTrainerSegMambaPaper(TRAINERS["nnUNetTrainerSegMamba"]):
    """SegMamba's training script: cross-entropy alone, no deep supervision, weight decay on every parameter.

    SGD 1e-2 with Nesterov momentum 0.99, weight decay 3e-5, polynomial decay per step, 1000 x 250 steps, gradients
    clipped to 12 and the augmentation are nnU-Net's defaults, which the script took over.
    """

    recipe = Recipe(enable_deep_supervision=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.network.parameters()), "weight_decay": self.weight_decay}]

    def _build_loss(self) -> nn.Module:
        loss = super()._build_loss()
        of_one_scale(loss).dc = _NoDice()
        return loss


class _NoDice(nn.Module):
    """What takes the place of nnU-Net's Dice: 0, with the gradient 0.

    With a weight of 0 instead, nnU-Net's loss of a batch whose voxels are all to be ignored is a number without
    gradient.
    """

    def forward(
        self, logits: torch.Tensor, target: torch.Tensor, loss_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return 0 * logits.mean()


@dataclass(frozen=True)
class ScanGridRecipe(Recipe):
    """A recipe in which an epoch visits every scan once.

    Attributes:
        patches_per_axis: positions of the patch along each axis of a scan (more where it takes more to cover the scan).
        num_iterations_per_epoch, num_val_iterations_per_epoch: scans per epoch; 0 means all of them.
        first_restart: epochs of the first cosine cycle; every further cycle is twice as long.
    """

    UNUSED: ClassVar[frozenset[str]] = frozenset(
        {
            "optimizer",
            "momentum",
            "warmup_share",
            "oversample_foreground_percent",
            "probabilistic_oversampling",
            "enable_deep_supervision",
            "mirroring",
        }
    )

    patches_per_axis: int = number(3, low=1)
    num_iterations_per_epoch: int = number(0, low=0)
    num_val_iterations_per_epoch: int = number(0, low=0)
    first_restart: int = number(1, low=1)


class nnUNetTrainerMedSegMambaPaper(TRAINERS["nnUNetTrainerMedSegMamba"]):
    """The MedSegMamba paper's training (no training code is released).

    From the paper: AdamW, cosine annealing with warm restarts; Dice and class-weighted cross-entropy in the first
    epoch, Dice alone after it; 27 patches of every scan on a 3 x 3 x 3 grid (3 x 3 in 2D), whose gradients are
    accumulated to one step per scan; 15 epochs; dropout 0.1 and drop path 0.3 in the bottleneck (the network's
    defaults). It names no augmentation, so there is none, and prediction does not mirror; deep supervision is off.

    Chosen here, because the paper does not say: learning rate 3e-4 as in ``nnUNetTrainerMedSegMamba``; weight decay
    1e-2 (AdamW's usual; none on vectors); a first cycle of 1 epoch, then doubling (1 + 2 + 4 + 8 = 15, and 63 with two
    more: both of the paper's lengths end a cycle); median-frequency class weights (regions stay unweighted); nnU-Net's
    soft Dice without background and its gradient clip of 12.

    The plan's batch size only says how many patches go through the network at once.
    """

    recipe = ScanGridRecipe(
        num_epochs=15,
        optimizer="adamw",
        initial_lr=3e-4,
        weight_decay=1e-2,
        enable_deep_supervision=False,
        save_every=1,
    )

    def initialize(self) -> None:
        if self.is_ddp:
            raise NotImplementedError(
                f"{type(self).__name__} takes one step per scan, so several GPUs would change the recipe; "
                "train it with -num_gpus 1, or use nnUNetTrainerMedSegMamba"
            )
        super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.AdamW(self.parameter_groups(), self.initial_lr, fused=fused_option(self.device))
        return optimizer, CosineAnnealingWarmRestarts(optimizer, self.recipe.first_restart, T_mult=2)

    def get_dataloaders(self) -> tuple[Iterator[dict], Iterator[dict]]:
        """Return endless iterators over the training and the validation scans, each item a scan's patches."""
        transforms = self.get_validation_transforms(
            None,
            is_cascaded=self.is_cascaded,
            foreground_labels=self.label_manager.foreground_labels,
            regions=self.label_manager.foreground_regions if self.label_manager.has_regions else None,
            ignore_label=self.label_manager.ignore_label,
        )
        training, validation = self.get_tr_and_val_datasets()
        self.num_iterations_per_epoch = self.num_iterations_per_epoch or len(training.identifiers)
        self.num_val_iterations_per_epoch = self.num_val_iterations_per_epoch or len(validation.identifiers)
        if self.current_epoch == 0 and not self.label_manager.has_regions:
            of_one_scale(self.loss).ce.weight = self._class_weights(training).to(self.device)
        patch_size, positions = self.configuration_manager.patch_size, self.recipe.patches_per_axis
        workers = min(4, get_allowed_n_proc_DA())  # cropping is light, and every worker holds whole scans
        train_scans, val_scans = (
            endless_scans(ScanPatches(cases, patch_size, positions, transforms), workers, self.device.type == "cuda")
            for cases in (training, validation)
        )
        return train_scans, val_scans

    def _class_weights(self, cases: nnUNetBaseDataset) -> torch.Tensor:
        classes = self.label_manager.num_segmentation_heads
        voxels = np.zeros(classes, dtype=np.int64)
        for name in cases.identifiers:
            labels = np.maximum(cases.load_case(name)[1][:].ravel(), 0)  # -1, outside the image, trains as background
            voxels += np.bincount(labels, minlength=classes)[:classes]  # the ignore label comes last
        weights = median_frequency_weights(torch.from_numpy(voxels))
        self.print_to_log_file("Cross-entropy weights of the first epoch:", [round(w, 4) for w in weights.tolist()])
        return weights

    def on_train_epoch_start(self) -> None:
        of_one_scale(self.loss).weight_ce = 1.0 if self.current_epoch == 0 else 0.0
        super().on_train_epoch_start()

    def micro_batches(self, batch: dict) -> Iterator[tuple[dict, float]]:
        patches = len(batch["data"])
        for data, target in zip(*(batch[key].split(self.batch_size) for key in ("data", "target")), strict=True):
            yield {"data": data, "target": target}, len(data) / patches

    def validation_step(self, batch: dict) -> dict:
        total: dict[str, Any] = {"loss": 0.0, "tp_hard": 0, "fp_hard": 0, "fn_hard": 0}
        for part, share in self.micro_batches(batch):
            result = super().validation_step(part)
            result["loss"] = result["loss"] * share
            total = {key: total[key] + result[key] for key in total}
        return total

    def on_train_end(self) -> None:
        super().on_train_end()
        self.dataloader_train = self.dataloader_val = None  # ends their worker processes


class nnUNetTrainerMedSegMambaHippocampusPaper(nnUNetTrainerMedSegMambaPaper):
    """The MedSegMamba paper's hippocampus training: 63 epochs, batch size 1.

    There a scan is a box around the hippocampus no larger than the patch, so one patch, centred, is the whole scan.
    """

    recipe = replace(nnUNetTrainerMedSegMambaPaper.recipe, num_epochs=63, patches_per_axis=1)


class nnUNetTrainerUMamba2Paper(TRAINERS["nnUNetTrainerUMamba2"], AccumulatingTrainer):
    """U-Mamba2's published training: 1500 epochs, the gradients of two batches accumulated to a step.

    The plan says the batch size, 1 in the authors' own. Chosen here, because it is not known to us: an epoch has
    nnU-Net's 250 steps, of two batches each. Everything else is nnU-Net's recipe. Its pre-training as a disruptive
    autoencoder is not built.
    """

    recipe = AccumulatingRecipe(num_epochs=1500)


PAPER_TRAINERS = (
    nnUNetTrainerSegMambaPaper,
    nnUNetTrainerMedSegMambaPaper,
    nnUNetTrainerMedSegMambaHippocampusPaper,
    nnUNetTrainerUMamba2Paper,
)
