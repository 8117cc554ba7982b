"""Gradients of several batches, accumulated to one optimiser step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .base import nnUNetTrainerMamba
from .recipe import Recipe, number


@dataclass(frozen=True)
class AccumulatingRecipe(Recipe):
    """A recipe whose steps take more than one batch.

    Attributes:
        batches_per_step: of the plan's batch size; an iteration, as epochs count them, is a step.
    """

    batches_per_step: int = number(2, low=1)


class AccumulatingTrainer(nnUNetTrainerMamba):
    """Takes ``recipe.batches_per_step`` batches for each step, one after the other.

    The loss is the mean of the batches' losses. Its gradients are those of one batch of all samples where the loss is a
    mean over samples; nnU-Net's is, without ``batch_dice`` and without an ignore label.
    """

    recipe: AccumulatingRecipe = AccumulatingRecipe()

    def train_step(self, batch: dict) -> dict:
        """Do one step with ``batch`` and as many more from the loader as the recipe says."""
        more = [next(self.dataloader_train) for _ in range(self.recipe.batches_per_step - 1)]
        return super().train_step({"batches": [batch, *more]})

    def micro_batches(self, batch: dict) -> Iterator[tuple[dict, float]]:
        batches = batch.get("batches", [batch])  # one of validation is alone
        for part in batches:
            yield part, 1 / len(batches)
