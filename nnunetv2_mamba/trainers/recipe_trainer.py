"""nnU-Net's trainer with its numbers from a recipe: settings, optimiser, schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from .optimizers import WarmupPolyLR, fused_option, parameter_groups
from .recipe import Recipe
from .settings import read_settings, with_settings

# Settings that nnU-Net's loop reads from the trainer itself; the others are read from ``self.recipe``. They are copies,
# because nnU-Net changes its attributes: with several GPUs each process has its own share of foreground.
_NNUNET_ATTRIBUTES = (
    "num_epochs",
    "num_iterations_per_epoch",
    "num_val_iterations_per_epoch",
    "initial_lr",
    "weight_decay",
    "oversample_foreground_percent",
    "probabilistic_oversampling",
    "enable_deep_supervision",
    "save_every",
)


class RecipeTrainer(nnUNetTrainer):
    """Trains by ``recipe`` and the user's settings.

    Attributes:
        recipe: the numbers of the training; on an instance, with the user's settings in it.
        explicit: the settings that the user gave.
    """

    recipe: Recipe = Recipe()

    def __init__(self, *args: Any, **kwargs: Any):
        settings = self.user_settings()
        recipe = with_settings(self.recipe, settings)  # before nnU-Net makes folders
        super().__init__(*args, **kwargs)
        self.explicit = frozenset(settings)
        self.apply_recipe(recipe, asdict(recipe))

    @classmethod
    def user_settings(cls) -> Mapping[str, Any]:
        """Return what the user sets: by ``NNUNETV2_MAMBA_SETTINGS``, unless a subclass is told otherwise."""
        return read_settings()

    def apply_recipe(self, recipe: Recipe, names: Iterable[str]) -> None:
        """Train by ``recipe``; nnU-Net's loop reads some of it, those in ``names``, from the trainer's attributes."""
        self.recipe = recipe
        for name in _NNUNET_ATTRIBUTES:
            if name in names:
                setattr(self, name, getattr(recipe, name))

    def take_attributes_over(self) -> None:
        """Put them into the recipe: a subclass may have set some in its constructor, as nnU-Net's own variants do."""
        self.recipe = replace(self.recipe, **{name: getattr(self, name) for name in _NNUNET_ATTRIBUTES})

    def initialize(self) -> None:
        if not self.was_initialized:
            self.take_attributes_over()
        super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Return the recipe's optimiser, and nnU-Net's polynomial decay after the recipe's warm-up."""
        groups = self.parameter_groups()
        fused = fused_option(self.device)
        optimizer: torch.optim.Optimizer
        if self.recipe.optimizer == "sgd":
            momentum = self.recipe.momentum
            optimizer = torch.optim.SGD(groups, self.initial_lr, momentum, nesterov=momentum > 0, fused=fused)
        else:  # betas as in nnU-Net's Primus trainers
            optimizer = torch.optim.AdamW(groups, self.initial_lr, betas=(0.9, 0.98), fused=fused)
        warmup = self.recipe.warmup_share * self.num_epochs
        return optimizer, WarmupPolyLR(optimizer, self.initial_lr, self.num_epochs, warmup)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """SGD decays biases and norms, as nnU-Net does; AdamW, whose decay is far stronger, does not."""
        return parameter_groups(self.network, self.weight_decay, decay_vectors=self.recipe.optimizer == "sgd")

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple:  # noqa: N802  (nnU-Net's spelling)
        rotation, dummy_2d, initial_patch_size, mirror_axes = (
            super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        )
        if not self.recipe.mirroring:
            mirror_axes = self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, initial_patch_size, mirror_axes
