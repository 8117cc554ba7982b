"""One training step by a recipe, and what keeps a training going: NaN, too little memory, a failing compiler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_mamba.text import short_reason

from .compilation import is_compiled, is_compiler_error, uncompiled
from .nonfinite import NonFiniteCounter, NonFiniteError, finite, first_non_finite
from .out_of_memory import explanation, out_of_memory_explained
from .precision import AMP_VARIABLE, Precision
from .recipe_trainer import RecipeTrainer
from .settings import VARIABLE

_Result = TypeVar("_Result")


class StepTrainer(RecipeTrainer):
    """Trains and validates in the recipe's precision, and steps by its schedule, clip and parts of a batch.

    Steps with NaN or Inf are skipped, explained and not repeated for ever; a step that needs too much memory says what
    to change; a network that ``torch.compile`` cannot compile is trained without it.

    Attributes:
        planner: the network's name for ``nnunetv2_mamba plan --network``; None for one that has no planner.
        precision: of the mixed precision.
    """

    planner: ClassVar[str | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.precision = Precision(self.device)
        self.grad_scaler = self.precision.grad_scaler()
        self._iteration = 0
        self._non_finite = NonFiniteCounter()

    def bare_network(self) -> nn.Module:
        """The network without what wraps it: DistributedDataParallel, ``torch.compile``."""
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._iteration = 0

    def micro_batches(self, batch: dict) -> Iterator[tuple[dict, float]]:
        """The parts of a batch that go through the network at once, each with its share of the loss."""
        yield batch, 1.0

    def train_step(self, batch: dict) -> dict:
        """One optimiser step. As nnU-Net's, but the schedule, the clip and the parts of the batch are the recipe's.

        Raises:
            NonFiniteError: after too many steps in a row with NaN or Inf.
            OutOfMemoryError: naming the plan, its estimate and the next smaller setting.
        """
        with self._out_of_memory_explained(batch):
            result = self._compiled_if_possible(partial(self._step, batch))
        self._iteration += 1
        return result

    def _step(self, batch: dict) -> dict:
        epoch = self.current_epoch + self._iteration / self.num_iterations_per_epoch
        progress = epoch / self.num_epochs
        self.lr_scheduler.step(epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._forward_backward(part, share, progress) for part, share in self.micro_batches(batch))
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained_parameters(), self.recipe.gradient_clip)
        # Not left to the scaler: skipping the first step, it leaves fused SGD with momentum that nobody initialised.
        if finite(norm):  # the same on every GPU, unlike the loss
            self.optimizer.step()
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        self._non_finite.count(finite(loss) and finite(norm))
        if self._non_finite.in_a_row:
            self._report_non_finite(batch, loss, progress)
        return {"loss": loss.cpu().numpy()}

    def _trained_parameters(self) -> list[nn.Parameter]:
        """The network's, and what else is trained: the loss may learn weights of its terms."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _forward_backward(self, batch: dict, share: float, progress: float) -> torch.Tensor:
        loss = self._loss_of(*self._on_device(batch), share, progress)
        self._scaled(loss).backward()
        return loss.detach()

    def _loss_of(
        self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor], share: float, progress: float
    ) -> torch.Tensor:
        with self.precision.autocast():
            return share * self.compute_loss(data, target, progress)

    def _scaled_loss_of(self, *arguments: Any) -> torch.Tensor:
        return self._scaled(self._loss_of(*arguments))

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.grad_scaler is None else self.grad_scaler.scale(loss)

    def _on_device(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | list[torch.Tensor]]:
        target = batch["target"]
        if isinstance(target, list):
            target = [scale.to(self.device, non_blocking=True) for scale in target]
        else:
            target = target.to(self.device, non_blocking=True)
        return batch["data"].to(self.device, non_blocking=True), target

    def compute_loss(
        self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor], progress: float
    ) -> torch.Tensor:
        """The loss of (a part of) a training batch on the device, under the autocast in use.

        Args:
            progress: share of the training that is done, in [0, 1].
        """
        return self.loss(self.network(data), target)

    def validation_step(self, batch: dict) -> dict:
        with self._out_of_memory_explained(batch), self.precision.as_default():
            return self._compiled_if_possible(partial(super().validation_step, batch))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        with self.precision.as_default():
            self._compiled_if_possible(partial(super().perform_actual_validation, save_probabilities))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """As nnU-Net's, which also switches it on after validation where the training never had it."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    def _report_non_finite(self, batch: dict, loss: torch.Tensor, progress: float) -> None:
        counter = self._non_finite
        where = f"epoch {self.current_epoch}, iteration {self._iteration}"
        scaling = self.grad_scaler is not None and finite(loss)
        exhausted = counter.exhausted and not (scaling and self.grad_scaler.get_scale() >= 1)  # it halves every time
        if scaling and not exhausted:
            self.print_to_log_file(
                f"Gradient beyond fp16 in {where}; step skipped, loss scale now {self.grad_scaler.get_scale():g} "
                f"({counter.in_a_row} in a row, {counter.total} in all; a few are usual while the scale settles)"
            )
            return
        if counter.in_a_row == 1 or exhausted:
            found = self._first_non_finite(batch, progress)
            self.print_to_log_file(f"NaN or Inf in {where} came first from {found}")
        self.print_to_log_file(f"Step skipped ({counter.in_a_row} in a row, {counter.total} in all)")
        if exhausted:
            raise NonFiniteError(
                f"{counter.in_a_row} steps in a row gave NaN or Inf, see {self.log_file} for the layer. The last "
                f"checkpoint in {self.output_folder} is from before; --c continues from it. Remedies: "
                f"{AMP_VARIABLE}=none (or bf16), or a lower initial_lr with {VARIABLE}"
            )

    def _first_non_finite(self, batch: dict, progress: float) -> str:
        network, bare = self.network, self.bare_network()

        def parts() -> Iterator[tuple[torch.Tensor, Callable[[], torch.Tensor]]]:
            for part, share in self.micro_batches(batch):
                data, target = self._on_device(part)
                yield data, partial(self._scaled_loss_of, data, target, share, progress)

        self.network = bare  # DDP and a compiled network run no hooks of their modules
        try:
            return first_non_finite(bare, parts(), self.loss.named_parameters(prefix="loss"))
        finally:
            self.network = network

    def _compiled_if_possible(self, step: Callable[[], _Result]) -> _Result:
        """What ``step`` returns; if ``torch.compile`` fails in it, from then on without.

        Compiling happens in the first step, and again for other shapes and for predictions. What the failed step left,
        gradients, the next one starts from anew.
        """
        try:
            return step()
        except Exception as error:
            if not is_compiler_error(error) or not (is_compiled(self.network) or is_compiled(self.loss)):
                raise
            reason = short_reason(error)
        self.stop_compiling(reason)
        return step()

    def stop_compiling(self, reason: str) -> None:
        """Go on with the network, and the loss, as they are."""
        self.network, self.loss = uncompiled(self.network), uncompiled(self.loss)
        self.print_to_log_file(f"torch.compile failed, the training goes on without it, slower: {reason}")

    def _out_of_memory_explained(self, batch: dict) -> AbstractContextManager:
        return out_of_memory_explained(lambda: self._explain_memory(batch))

    def _explain_memory(self, batch: dict) -> str:
        build = partial(
            self.build_network_architecture,
            self.plans_manager,
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        )
        shape = next(part["data"].shape for part, _ in self.micro_batches(batch))
        return explanation(
            build,
            shape,
            self.recipe.optimizer,
            self.precision.dtype,
            self.recipe.activation_checkpointing,
            self.plans_manager,
            self.configuration_name,
            self.planner,
        )
