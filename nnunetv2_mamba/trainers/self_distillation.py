"""Training with multi-scale self-distillation, for any network here with deep supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_mamba.losses import SelfDistillationLoss
from nnunetv2_mamba.losses.distillation_safeguards import Ramp, UncertaintyWeights
from nnunetv2_mamba.losses.label_kinds import ExclusiveClasses, Regions
from nnunetv2_mamba.losses.self_distillation import students_of

from .base import nnUNetTrainerMamba
from .compilation import is_compiled
from .distillation_history import Record, lines, plot, record
from .ema_teacher import EMATeacher
from .recipe import Recipe, number

_CHECKPOINT_KEY = "nnunetv2_mamba_distillation"


@dataclass(frozen=True)
class SelfDistillationRecipe(Recipe):
    """A recipe with self-distillation; see ``losses.self_distillation`` for the formulas.

    Attributes:
        distillation_weight: lambda; 0 for deep supervision alone.
        temperature: tau.
        teacher: ``"final"`` (the full-resolution head), ``"fused"`` (a learned fusion of all heads) or ``"ema"`` (a
            copy of the network whose weights follow).
        gate: ``"advantage"``, ``"confidence"``, ``"correct"`` or ``"none"``: how far a voxel teaches.
        distillation_warmup_share: share of the training without distillation.
        distillation_ramp_share: share of the training, after that, over which its weight grows to the full one.
        brake: do not teach classes in which the teacher is worse than the student.
        standardise_logits: shift and scale logits to mean 0 and deviation 1 over the classes before the temperature.
        uncertainty_weighting: learn the weights of the terms, starting from those above.
        ema_decay: of the teacher ``"ema"``, reached from below.

    Raises:
        ValueError: for settings that contradict each other.
    """

    distillation_weight: float = number(0.5, low=0)
    temperature: float = number(3.0, low=0.1, high=100)  # above, fp32 has no digits left for the KL
    teacher: Literal["final", "fused", "ema"] = "final"
    gate: Literal["advantage", "confidence", "correct", "none"] = "advantage"
    distillation_warmup_share: float = number(0.05, low=0, high=1)
    distillation_ramp_share: float = number(0.1, low=0, high=1)
    brake: bool = True
    standardise_logits: bool = False
    uncertainty_weighting: bool = False
    ema_decay: float = number(0.999, low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.enable_deep_supervision and (self.distillation_weight > 0 or self.teacher == "fused"):
            raise ValueError(
                "enable_deep_supervision=false leaves no lower-resolution head to teach or to fuse; set "
                "distillation_weight=0 and teacher='final' too"
            )
        if self.uncertainty_weighting and self.distillation_weight == 0:
            raise ValueError(
                "uncertainty_weighting=true weighs segmentation against distillation, which distillation_weight=0 "
                "switches off; leave one of them out"
            )

    def network_options(self) -> dict[str, Any]:
        return {"fused_head": True} if self.teacher == "fused" else {}


class SelfDistillationTrainer(nnUNetTrainerMamba):
    """nnU-Net's loss on every scale, plus distillation from the network's best prediction to its coarser heads.

    Validation and prediction do not know of it: the validation loss is nnU-Net's, and the network predicts with its
    full-resolution head. With several GPUs the statistics are summed over all of them, so that log, picture and brake
    are those of the whole training, and every process keeps the same EMA teacher. Weights learned by
    ``uncertainty_weighting`` belong to the loss, are a parameter group of the optimiser without weight decay, and are
    wrapped in ``DistributedDataParallel`` as the network is.

    Attributes:
        history: a record per epoch.
        ema: the teacher ``"ema"``, if there is one, once the trainer is initialised.
    """

    FIXED = (*nnUNetTrainerMamba.FIXED, "teacher", "uncertainty_weighting")
    recipe = SelfDistillationRecipe()

    def initialize(self) -> None:
        self.history: list[Record] = []
        super().initialize()
        if self.loss.uncertainty is not None:
            self.optimizer.add_param_group({"params": list(self.loss.uncertainty.parameters()), "weight_decay": 0.0})
        self.ema: EMATeacher | None = None
        if self.recipe.teacher == "ema" and self.loss.students:
            self.ema = EMATeacher(self.bare_network(), self.recipe.ema_decay, is_compiled(self.network))

    def _build_loss(self) -> nn.Module:
        loss, weights = super()._build_loss(), (1.0,)
        if self.enable_deep_supervision:
            loss, weights = loss.loss, loss.weight_factors
        recipe, labels = self.recipe, self.label_manager
        kind = Regions(labels.has_ignore_label) if labels.has_regions else ExclusiveClasses(labels.ignore_label)
        uncertainty: nn.Module | None = None
        students = students_of(weights)
        if recipe.uncertainty_weighting and students:
            total = sum(weights[scale] for scale in students)
            start = [1.0, *(recipe.distillation_weight * weights[scale] / total for scale in students)]
            uncertainty = UncertaintyWeights(start).to(self.device)
            if self.is_ddp:
                uncertainty = DistributedDataParallel(uncertainty)
        return SelfDistillationLoss(
            loss,
            weights,
            kind,
            labels.num_segmentation_heads,
            self.device,
            teacher=recipe.teacher,
            distillation_weight=recipe.distillation_weight,
            temperature=recipe.temperature,
            gate=recipe.gate,
            ramp=Ramp(recipe.distillation_warmup_share, recipe.distillation_ramp_share),
            brake=recipe.brake,
            standardise_logits=recipe.standardise_logits,
            uncertainty=uncertainty,
        )

    def _learned_weights(self) -> UncertaintyWeights | None:
        module = self.loss.uncertainty
        return module.module if isinstance(module, DistributedDataParallel) else module

    def stop_compiling(self, reason: str) -> None:
        super().stop_compiling(reason)
        if self.ema is not None:
            self.ema.stop_compiling()

    def on_train_start(self) -> None:
        super().on_train_start()
        if self.ema is not None:
            self.ema.start(self.bare_network())
        if self.recipe.distillation_weight > 0 and not self.loss.students:
            self.print_to_log_file(
                "Nothing is distilled: with fewer than four resolutions, nnU-Net's deep supervision weighs no head "
                "below full resolution."
            )

    # one iteration

    def compute_loss(
        self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor], progress: float
    ) -> torch.Tensor:
        """Return nnU-Net's loss and the distillation at this moment of the training."""
        teacher_logits = None if self.ema is None else self.ema(data)
        return self.loss(self.network(data), target, teacher_logits, progress)

    def train_step(self, batch: dict) -> dict:
        result = super().train_step(batch)
        if self.ema is not None:
            self.ema.update(self.bare_network())
        return result

    # epochs

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        super().on_train_epoch_end(train_outputs)
        loss = self.loss
        means = loss.end_epoch(self.is_ddp)
        scales = (loss.supervised, loss.students, loss.kind.foreground)
        last = self.current_epoch + (self.num_iterations_per_epoch - 1) / self.num_iterations_per_epoch
        weight = loss.weight_at(last / self.num_epochs)
        self.history.append(record(self.current_epoch, weight, *scales, means))
        for line in lines(self.history[-1]):
            self.print_to_log_file(line)
        for index, scale in enumerate(loss.students if loss.brake is not None else []):
            braked = loss.brake.braked[index].nonzero().flatten().tolist()
            if braked:
                self.print_to_log_file(f"Scale {scale}: braked in the next epoch: output channels {braked}")
        learned = self._learned_weights()
        if learned is not None:
            weights = (-learned.log_variances.detach()).exp() / 2
            self.print_to_log_file("Learned weights of the terms:", [round(w, 4) for w in weights.tolist()])

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0:
            plot(self.history, Path(self.output_folder) / "distillation.png")

    # checkpoints

    def checkpoint_content(self) -> dict[str, Any]:
        """Return what a checkpoint holds: the base class's keys, and the state of the distillation."""
        state = {"history": self.history}
        state |= {name: part.state_dict() for name, part in self._stateful().items()}
        return {**super().checkpoint_content(), _CHECKPOINT_KEY: state}

    def _stateful(self) -> dict[str, Any]:
        """Return what has a state to keep, by its name in the checkpoint."""
        parts = {
            "brake": self.loss.brake if self.loss.students else None,
            "uncertainty": self._learned_weights(),
            "ema": self.ema,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def restore(self, content: Mapping[str, Any]) -> None:
        """Restore the base class's state, and what there is of teacher, brake, learned weights and history."""
        super().restore(content)
        state = content.get(_CHECKPOINT_KEY, {})
        # SIGTERM after the last step of an epoch leaves its entry, and the epoch is repeated
        self.history = [entry for entry in state.get("history", []) if entry["epoch"] < self.current_epoch]
        for name, part in self._stateful().items():
            if name in state:
                part.load_state_dict(state[name])
