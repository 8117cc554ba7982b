"""One training step by a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.utils._pytree import tree_map

from .nonfinite import finite
from .precision import Precision
from .recipe_trainer import RecipeTrainer


class StepTrainer(RecipeTrainer):
    """Trains and validates in the recipe's precision, and steps by its schedule, clip and parts of a batch.

    Attributes:
        precision: of the mixed precision.
        iteration: number, within its epoch, of the step that comes next or is under way.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.precision = Precision(self.device)
        self.grad_scaler = self.precision.grad_scaler()
        self.iteration = 0

    def bare_network(self) -> nn.Module:
        """Return the network without what wraps it: DistributedDataParallel, ``torch.compile``."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.iteration = 0

    def micro_batches(self, batch: dict) -> Iterator[tuple[dict, float]]:
        """Yield the parts of a batch that go through the network at once, each with its share of the loss."""
        yield batch, 1.0

    def train_step(self, batch: dict) -> dict:
        """Do one optimiser step.

        It is nnU-Net's, but the schedule, the clip and the parts of the batch are the recipe's, and a step with NaN or
        Inf is skipped.
        """
        epoch = self.current_epoch + self.iteration / self.num_iterations_per_epoch
        progress = epoch / self.num_epochs
        self.lr_scheduler.step(epoch)
        self.optimizer.zero_grad(set_to_none=True)
        parts = list(self.micro_batches(batch))
        losses = []
        for number, (part, share) in enumerate(parts, start=1):
            with self._gradients_averaged_after(last=number == len(parts)):
                losses.append(self._forward_backward(part, share, progress))
        loss = sum(losses)
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained_parameters(), self.recipe.gradient_clip)
        # Not left to the scaler: skipping the first step, it leaves fused SGD with momentum that nobody initialised.
        if finite(norm):  # the same on every GPU, unlike the loss
            self.optimizer.step()
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        self.after_step(batch, loss, norm, progress)
        self.iteration += 1
        return {"loss": loss.cpu().numpy()}

    def after_step(self, batch: dict, loss: torch.Tensor, norm: torch.Tensor, progress: float) -> None:
        """Is called with the batch, its loss, the norm of the gradient and the share of the training that is done."""

    def _trained_parameters(self) -> list[nn.Parameter]:
        """Return the network's, and what else is trained: the loss may learn weights of its terms."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _gradients_averaged_after(self, last: bool) -> AbstractContextManager:
        """Let DistributedDataParallel average the gradients of all processes once a step, with its last part."""
        return nullcontext() if last or not self.is_ddp else self.network.no_sync()

    def _forward_backward(self, batch: dict, share: float, progress: float) -> torch.Tensor:
        loss = self._loss_of(*self.on_device(batch), share, progress)
        self._scaled(loss).backward()
        return loss.detach()

    def _loss_of(
        self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor], share: float, progress: float
    ) -> torch.Tensor:
        with self.precision.autocast():
            return share * self.compute_loss(data, target, progress)

    def scaled_loss_of(self, *arguments: Any) -> torch.Tensor:
        """Return the loss that a step differentiates; arguments: data, target, share and progress."""
        return self._scaled(self._loss_of(*arguments))

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.grad_scaler is None else self.grad_scaler.scale(loss)

    def on_device(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | list[torch.Tensor]]:
        """Return a batch's data and target on the trainer's device."""
        return tree_map(lambda tensor: tensor.to(self.device, non_blocking=True), (batch["data"], batch["target"]))

    def compute_loss(
        self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor], progress: float
    ) -> torch.Tensor:
        """Return the loss of (a part of) a training batch on the device, under the autocast in use.

        Args:
            progress: share of the training that is done, in [0, 1].
        """
        return self.loss(self.network(data), target)

    def validation_step(self, batch: dict) -> dict:
        with self.precision.as_default():
            return super().validation_step(batch)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self.precision.as_default():
            super().perform_actual_validation(save_probabilities)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch it as nnU-Net does, but not on after validation where the training never had it."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)
