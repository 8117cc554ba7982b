"""nnU-Net's training lengths (``_5epochs`` ...) for any trainer."""

from __future__ import annotations

from dataclasses import replace

from nnunetv2_mamba.nnunet.names import save_every

from .base import nnUNetTrainerMamba
from .of_networks import subclass

# What follows the trainer's name, and its number of epochs.
LENGTHS = {f"_{epochs}epoch{'s' if epochs > 1 else ''}": epochs for epochs in (1, 5, 10, 20, 50, 100, 250)}


def of_length(trainer: type[nnUNetTrainerMamba], suffix: str) -> type[nnUNetTrainerMamba]:
    """Return a subclass of ``trainer`` that trains for another number of epochs, and saves after every tenth of them.

    It saves after every epoch where there are fewer than ten, and never more seldom than ``trainer``.

    Args:
        trainer: the class to vary.
        suffix: a key of ``LENGTHS``.
    """
    epochs = LENGTHS[suffix]
    recipe = replace(trainer.recipe, num_epochs=epochs, save_every=save_every(epochs, trainer.recipe.save_every))
    doc = f"{trainer.__name__} for {epochs} epoch{'s' if epochs > 1 else ''}."
    return subclass(trainer, trainer.__name__ + suffix, doc, {"recipe": recipe})
