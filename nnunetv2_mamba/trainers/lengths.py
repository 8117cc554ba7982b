"""nnU-Net's training lengths (``_5epochs`` ...) for any trainer, without a class written out for each."""

from __future__ import annotations

from dataclasses import replace

from .base import nnUNetTrainerMamba

LENGTHS = (1, 5, 10, 20, 50, 100, 250)


def length_variants(trainer: type[nnUNetTrainerMamba], module: str) -> list[type[nnUNetTrainerMamba]]:
    """Subclasses of ``trainer`` that train for fewer epochs and save ten times on the way.

    Args:
        trainer: the class to vary.
        module: the module that will hold the classes under their own names, as pickling requires.
    """
    variants = []
    for epochs in LENGTHS:
        name = f"{trainer.__name__}_{epochs}epoch{'s' if epochs > 1 else ''}"
        save_every = min(trainer.recipe.save_every, max(1, epochs // 10))
        members = {
            "__module__": module,
            "__doc__": f"{trainer.__name__} for {epochs} epoch{'s' if epochs > 1 else ''}.",
            "recipe": replace(trainer.recipe, num_epochs=epochs, save_every=save_every),
        }
        variants.append(type(name, (trainer,), members))
    return variants
