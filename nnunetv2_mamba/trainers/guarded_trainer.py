"""What keeps a training going, or says why it ends: NaN, too little memory, a failing compiler."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist

from nnunetv2_mamba.text import short_reason

from .compilation import await_failure_of_all, compiler_problem, is_compiled, is_compiler_error, uncompiled
from .nonfinite import NonFiniteCounter, NonFiniteError, finite, first_non_finite
from .out_of_memory import explanation, out_of_memory_explained
from .precision import AMP_VARIABLE
from .settings import VARIABLE
from .step_trainer import StepTrainer

_Result = TypeVar("_Result")


class GuardedTrainer(StepTrainer):
    """Steps with NaN or Inf are explained and not repeated for ever; a step that needs too much memory says what to
    change; a network that ``torch.compile`` cannot compile is trained without it.

    Attributes:
        network_name: of the registry, for ``nnunetv2_mamba plan --network``; None where the network is not in it.
        non_finite: counts the steps with NaN or Inf.
        compiles: whether ``torch.compile`` is used, where nnU-Net would.
    """

    network_name: ClassVar[str | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.non_finite = NonFiniteCounter()
        self.compiles = True

    def initialize(self) -> None:
        if self._do_i_compile() and any(problems := self._of_every_gpu(compiler_problem(self.device))):
            problem = next(filter(None, problems))
            self.compiles = False
            self.print_to_log_file(f"torch.compile is not used, the training is slower: {problem}")
        super().initialize()

    def _do_i_compile(self) -> bool:
        return self.compiles and super()._do_i_compile()

    def train_step(self, batch: dict) -> dict:
        """Do the base class's step.

        Raises:
            NonFiniteError: after too many steps in a row with NaN or Inf.
            OutOfMemoryError: naming the plan, its estimate and the next smaller setting.
        """
        with out_of_memory_explained(lambda: self.explain_memory(batch)):
            return self._compiled_if_possible(partial(super().train_step, batch))

    def validation_step(self, batch: dict) -> dict:
        with out_of_memory_explained(lambda: self.explain_memory(batch)):
            return self._compiled_if_possible(partial(super().validation_step, batch))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        self._compiled_if_possible(partial(super().perform_actual_validation, save_probabilities))

    # NaN and Inf

    def after_step(self, batch: dict, loss: torch.Tensor, norm: torch.Tensor, progress: float) -> None:
        self.non_finite.count(finite(norm))  # the steps that are not taken: on every GPU the same
        if self.non_finite.in_a_row:
            self._report_non_finite(batch, loss, progress)

    def _report_non_finite(self, batch: dict, loss: torch.Tensor, progress: float) -> None:
        counter = self.non_finite
        where = f"epoch {self.current_epoch}, iteration {self.iteration}"
        scaling = self.grad_scaler is not None and all(self._of_every_gpu(finite(loss)))
        exhausted = counter.exhausted and not (scaling and self.grad_scaler.get_scale() >= 1)  # it halves every time
        if scaling and not exhausted:
            self.print_to_log_file(
                f"Gradient beyond fp16 in {where}; step skipped, loss scale now {self.grad_scaler.get_scale():g} "
                f"({counter.in_a_row} in a row, {counter.total} in all; a few are usual while the scale settles)"
            )
            return
        if counter.in_a_row == 1 or exhausted:
            found = self._of_every_gpu(self._first_non_finite(batch, progress))
            places = [f"{place} (on GPU {rank})" if self.is_ddp else place for rank, place in enumerate(found) if place]
            nowhere = "nowhere when the step was repeated (dropout and drop path draw anew)"
            self.print_to_log_file(f"NaN or Inf in {where} came first from {'; '.join(places) or nowhere}")
        self.print_to_log_file(f"Step skipped ({counter.in_a_row} in a row, {counter.total} in all)")
        if exhausted:
            raise NonFiniteError(
                f"{counter.in_a_row} steps in a row gave NaN or Inf, see {self.log_file} for the layer. The last "
                f"checkpoint in {self.output_folder} is from before; --c continues from it. Remedies: "
                f"{AMP_VARIABLE}=none (or bf16), or a lower initial_lr with {VARIABLE}"
            )

    def _of_every_gpu(self, value: _Result) -> list[_Result]:
        """Return what each process says; every one must ask. The first one alone writes the log."""
        values = [value] * (dist.get_world_size() if self.is_ddp else 1)
        if self.is_ddp:
            dist.all_gather_object(values, value)
        return values

    def _first_non_finite(self, batch: dict, progress: float) -> str | None:
        """Look at every part of the batch, whatever is found in one, as the other processes do."""
        network, bare, places = self.network, self.bare_network(), []
        self.optimizer.zero_grad(set_to_none=True)  # of the step that is skipped: memory for this one
        parameters = [*bare.named_parameters(), *self.loss.named_parameters(prefix="loss")]
        self.network = bare  # DDP and a compiled network run no hooks of their modules
        try:
            for number, (part, share) in enumerate(self.micro_batches(batch), start=1):
                data, target = self.on_device(part)
                compute_loss = partial(self.scaled_loss_of, data, target, share, progress)
                place = first_non_finite(bare, data, compute_loss, parameters)
                if place is not None:
                    places.append(place if number == 1 else f"{place} (in part {number} of the batch)")
        finally:
            self.network = network
        return places[0] if places else None

    # torch.compile

    def _compiled_if_possible(self, step: Callable[[], _Result]) -> _Result:
        """Return what ``step`` returns; if ``torch.compile`` fails in it, from then on without.

        Compiling happens in the first step, and again for other shapes and for predictions. What the failed step left,
        gradients, the next one starts from anew. On several GPUs all go on without, or none.

        Raises:
            RuntimeError: if it has failed on some GPUs only.
        """
        try:
            return step()
        except Exception as error:
            if not is_compiler_error(error) or not (is_compiled(self.network) or is_compiled(self.loss)):
                raise
            reason = short_reason(error)
        if self.is_ddp:
            await_failure_of_all(self.output_folder, reason)
        self.stop_compiling(reason)
        return step()

    def stop_compiling(self, reason: str) -> None:
        """Go on with the network, and the loss, as they are."""
        self.network, self.loss = uncompiled(self.network), uncompiled(self.loss)
        self.print_to_log_file(f"torch.compile failed, the training goes on without it, slower: {reason}")

    # memory

    def explain_memory(self, batch: dict) -> str:
        """Say what a step with this batch needs, and the next smaller setting."""
        return explanation(self, next(part["data"].shape for part, _ in self.micro_batches(batch)))
