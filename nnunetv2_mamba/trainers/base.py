"""What all trainers here share: a network from the plan, settings, optimiser, safe checkpoints."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch._dynamo import OptimizedModule

from nnunetv2_mamba.architectures.from_plans import network_from_plans
from nnunetv2_mamba.memory.allocator import keep_freed_memory
from nnunetv2_mamba.memory.estimate import GIB

from .activation_checkpointing import checkpoint_activations
from .checkpoint import load_own_checkpoint, remove_unfinished, save_atomically
from .label_check import check_labels
from .nonfinite import NonFiniteCounter, NonFiniteError, finite, first_non_finite
from .optimizers import WarmupPolyLR, fused_option, parameter_groups
from .out_of_memory import advice, estimated_bytes, out_of_memory_explained
from .precision import VARIABLE as AMP_VARIABLE
from .precision import Precision
from .preemption import TerminationRequest
from .recipe import Recipe
from .settings import VARIABLE, read_settings, with_settings

_CHECKPOINT_KEY = "nnunetv2_mamba_settings"
_FIXED = ("optimizer", "enable_deep_supervision")  # what a checkpoint's tensors depend on
# Settings that nnU-Net's loop reads from the trainer itself; the others are read from ``self.recipe``.
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


class nnUNetTrainerMamba(nnUNetTrainer):
    """nnU-Net's trainer for the networks of this package. A subclass says which network and which recipe.

    The loop, sampling, augmentation and loss are nnU-Net's. Different are: the optimiser and its schedule, which moves
    with every iteration; the settings (``settings``), which are echoed into the log and kept in the checkpoint; the
    mixed precision (``precision``); and what keeps a long training alive: checkpoints that a killed process never
    leaves half-written, one more of them on SIGTERM, and steps with NaN or Inf skipped, explained and not repeated
    for ever.

    Attributes:
        network_class: a network of ``nnunetv2_mamba.architectures``.
        network_options: its options beyond what the plan says.
        mixer: ``"mamba"``, or ``"none"`` or ``"conv"`` for the controls.
        recipe: the numbers of the training; on an instance, with the user's settings in it.
    """

    network_class: ClassVar[type[nn.Module]]
    network_options: ClassVar[Mapping[str, Any]] = {}
    mixer: ClassVar[str] = "mamba"
    recipe: Recipe = Recipe()

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008  (nnU-Net reads this signature)
    ):
        settings = read_settings()
        recipe = with_settings(self.recipe, settings)  # before nnU-Net makes folders
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.precision = Precision(self.device)
        self.grad_scaler = self.precision.grad_scaler()
        self._explicit = frozenset(settings)
        self._iteration = 0
        self._non_finite = NonFiniteCounter()
        self._termination = TerminationRequest()
        self._use(recipe, asdict(recipe))

    def _use(self, recipe: Recipe, names: Mapping[str, Any]) -> None:
        self.recipe = recipe
        for name in _NNUNET_ATTRIBUTES:
            if name in names:
                setattr(self, name, getattr(recipe, name))

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """The network for this plan, whichever planner made it. nnU-Net calls this for prediction too."""
        return network_from_plans(
            cls.network_class,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
            mixer=cls.mixer,
            **cls.network_options,
        )

    def initialize(self) -> None:
        super().initialize()
        self.precision.check_convolutions(self._bare_network())
        if self.recipe.activation_checkpointing:  # later than torch.compile's wrapper, which traces at the first call
            checkpoint_activations(self._bare_network())

    # optimiser

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """The recipe's optimiser, and nnU-Net's polynomial decay after the recipe's warm-up."""
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

    # one iteration

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._iteration = 0

    def micro_batches(self, batch: dict) -> Iterator[tuple[dict, float]]:
        """The parts of a batch that go through the network at once, each with its share of the loss."""
        yield batch, 1.0

    def train_step(self, batch: dict) -> dict:
        """One optimiser step. As nnU-Net's, but the schedule, the clip and the parts of the batch are the recipe's.

        Raises:
            preemption.Preempted: if SIGTERM came.
            NonFiniteError: after too many steps in a row with NaN or Inf.
            OutOfMemoryError: naming the plan, its estimate and the next smaller setting.
        """
        self._termination.check()
        with self._out_of_memory_explained(batch):
            return self._step(batch)

    def _step(self, batch: dict) -> dict:
        self.lr_scheduler.step(self.current_epoch + self._iteration / self.num_iterations_per_epoch)
        self._iteration += 1
        self.optimizer.zero_grad(set_to_none=True)
        loss = sum(self._forward_backward(part, share) for part, share in self.micro_batches(batch))
        if self.grad_scaler is not None:
            self.grad_scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.gradient_clip)
        # Not left to the scaler: skipping the first step, it leaves fused SGD with momentum that nobody initialised.
        if finite(norm):  # the same on every GPU, unlike the loss
            self.optimizer.step()
        if self.grad_scaler is not None:
            self.grad_scaler.update()
        self._non_finite.count(finite(loss) and finite(norm))
        if self._non_finite.in_a_row:
            self._report_non_finite(batch, loss)
        return {"loss": loss.cpu().numpy()}

    def _forward_backward(self, batch: dict, share: float) -> torch.Tensor:
        data, target = self._on_device(batch)
        with self.precision.autocast():
            loss = share * self.compute_loss(data, target)
        self._scaled(loss).backward()
        return loss.detach()

    def _scaled(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.grad_scaler is None else self.grad_scaler.scale(loss)

    def _on_device(self, batch: dict) -> tuple[torch.Tensor, torch.Tensor | list[torch.Tensor]]:
        target = batch["target"]
        if isinstance(target, list):
            target = [scale.to(self.device, non_blocking=True) for scale in target]
        else:
            target = target.to(self.device, non_blocking=True)
        return batch["data"].to(self.device, non_blocking=True), target

    def compute_loss(self, data: torch.Tensor, target: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        """The loss of (a part of) a training batch on the device, under the autocast in use."""
        return self.loss(self.network(data), target)

    def _report_non_finite(self, batch: dict, loss: torch.Tensor) -> None:
        counter = self._non_finite
        where = f"epoch {self.current_epoch}, iteration {self._iteration - 1}"
        scaling = self.grad_scaler is not None and finite(loss)
        exhausted = counter.exhausted and not (scaling and self.grad_scaler.get_scale() >= 1)  # it halves every time
        if scaling and not exhausted:
            self.print_to_log_file(
                f"Gradient beyond fp16 in {where}; step skipped, loss scale now {self.grad_scaler.get_scale():g} "
                f"({counter.in_a_row} in a row, {counter.total} in all; a few are usual while the scale settles)"
            )
            return
        if counter.in_a_row == 1 or exhausted:
            self.print_to_log_file(f"NaN or Inf in {where} came first from {self._first_non_finite(batch)}")
        self.print_to_log_file(f"Step skipped ({counter.in_a_row} in a row, {counter.total} in all)")
        if exhausted:
            raise NonFiniteError(
                f"{counter.in_a_row} steps in a row gave NaN or Inf, see {self.log_file} for the layer. The last "
                f"checkpoint in {self.output_folder} is from before; --c continues from it. Remedies: "
                f"{AMP_VARIABLE}=none (or bf16), or a lower initial_lr with {VARIABLE}"
            )

    def _first_non_finite(self, batch: dict) -> str:
        network, bare = self.network, self._bare_network()
        self.network = bare  # DDP and a compiled network run no hooks of their modules
        try:
            for part, share in self.micro_batches(batch):
                data, target = self._on_device(part)

                def loss_of(
                    data: torch.Tensor, target: torch.Tensor | list[torch.Tensor] = target, share: float = share
                ) -> torch.Tensor:
                    with self.precision.autocast():
                        loss = share * self.compute_loss(data, target)
                    return self._scaled(loss)

                return first_non_finite(bare, data, loss_of)
        finally:
            self.network = network

    def _out_of_memory_explained(self, batch: dict) -> AbstractContextManager:
        return out_of_memory_explained(lambda: self._explain_memory(batch))

    def _explain_memory(self, batch: dict) -> str:
        """What is trained, what it is estimated to need, and the next smaller setting."""
        labels, recipe = self.label_manager, self.recipe
        shape = next(part["data"].shape for part, _ in self.micro_batches(batch))

        def build() -> nn.Module:
            return self.build_network_architecture(
                self.plans_manager,
                self.configuration_manager,
                self.num_input_channels,
                labels.num_segmentation_heads,
                self.enable_deep_supervision,
            )

        estimate = estimated_bytes(build, shape, recipe.optimizer, self.precision.dtype)
        size = "not known (too little memory to trace it)" if estimate is None else f"{estimate / GIB:.2f} GiB"
        return (
            f"{self.plans_manager.plans_name} {self.configuration_name} trains patches of "
            f"{' x '.join(map(str, shape[2:]))} with {shape[1]} channels, {shape[0]} at once; the estimate of a step "
            f"{'without activation checkpointing ' if recipe.activation_checkpointing else ''}is {size}, besides what "
            "the device's libraries and other processes take; "
            + advice(
                estimate,
                int(self.plans_manager.dataset_name[7:10]),
                self.network_class.__name__,
                recipe.activation_checkpointing,
            )
        )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """As nnU-Net's, which also switches it on after validation where the training never had it."""
        super().set_deep_supervision_enabled(enabled and self.enable_deep_supervision)

    # start, checkpoints

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        """nnU-Net's, once every case is known to be there: it would find out at a random moment of the training.

        Raises:
            FileNotFoundError: naming the cases of the split that are not preprocessed.
            ValueError: naming those with labels that the network has no output for.
        """
        datasets = super().get_tr_and_val_datasets()
        there = set(self.dataset_class.get_identifiers(self.preprocessed_dataset_folder))
        missing = sorted({case for dataset in datasets for case in dataset.identifiers} - there)
        if missing:
            raise FileNotFoundError(
                f"{self.preprocessed_dataset_folder} lacks {len(missing)} cases of the split: {', '.join(missing[:20])}"
                f"{' ...' if len(missing) > 20 else ''}. Preprocess again (nnUNetv2_preprocess -d "
                f"{int(self.plans_manager.dataset_name[7:10])} -plans_name {self.plans_manager.plans_name} -c "
                f"{self.configuration_name}), or take them out of splits_final.json beside that folder"
            )
        if self.local_rank == 0:
            check_labels(datasets, self.label_manager)
        return datasets

    def on_train_start(self) -> None:
        if self.device.type == "cpu":
            keep_freed_memory()
        super().on_train_start()
        self.print_to_log_file(f"Settings, which {VARIABLE} can change:", self._describe(), add_timestamp=False)
        if self.local_rank == 0:
            for path in remove_unfinished(Path(self.output_folder)):
                self.print_to_log_file(f"Removed {path.name}, which a killed process had not finished writing.")

    def _describe(self) -> str:
        lines = (
            f"  {name} = {value!r}{'  (set by you)' if name in self._explicit else ''}"
            for name, value in asdict(self.recipe).items()
        )
        return "\n" + "\n".join(lines)

    def _bare_network(self) -> nn.Module:
        network = self.network.module if self.is_ddp else self.network
        return network._orig_mod if isinstance(network, OptimizedModule) else network

    def run_training(self) -> None:
        """nnU-Net's loop. On SIGTERM it writes ``checkpoint_latest.pth`` and exits with status 143, as a process does
        that the signal ends; ``--c`` then repeats the epoch that was under way, with the weights as they were."""
        with self._termination:
            try:
                super().run_training()
            except Exception:  # also what follows when the signal hit the data loading processes first
                if not self._termination.received:
                    raise
                self._save_for_continuation()
            if self._termination.received:
                raise SystemExit(128 + signal.SIGTERM)

    def _save_for_continuation(self) -> None:
        if self.local_rank != 0 or self.disable_checkpointing or not self.was_initialized:
            return
        content = self.checkpoint_content()
        content["current_epoch"] = self.current_epoch
        content["logging"] = {key: values[: self.current_epoch] for key, values in content["logging"].items()}
        save_atomically(content, Path(self.output_folder) / "checkpoint_latest.pth")
        self.print_to_log_file(f"SIGTERM: wrote checkpoint_latest.pth in epoch {self.current_epoch}; --c continues")

    def validation_step(self, batch: dict) -> dict:
        self._termination.check()
        with self._out_of_memory_explained(batch):
            return super().validation_step(batch)

    def checkpoint_content(self) -> dict[str, Any]:
        """What a checkpoint holds: nnU-Net's keys, and the settings."""
        return {
            "network_weights": self._bare_network().state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            _CHECKPOINT_KEY: asdict(self.recipe),
        }

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint that nnU-Net reads; ``filename`` is replaced only once the new one is complete."""
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        save_atomically(self.checkpoint_content(), Path(filename))

    def load_checkpoint(self, checkpoint: dict | str) -> None:
        """Continue from a checkpoint with the settings it was trained with, except those that the user sets now.

        Raises:
            ValueError: if the file is damaged, or if the user sets another optimiser or deep supervision, whose tensors
                the checkpoint has not.
        """
        content = load_own_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
        self._resume_settings(content.get(_CHECKPOINT_KEY, {}))
        if not self.was_initialized:
            self.initialize()
        options = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        super().load_checkpoint(checkpoint)
        for group, values in zip(self.optimizer.param_groups, options, strict=True):
            group.update(values)  # the checkpoint brings back the moments, not the old weight decay and momentum

    def _resume_settings(self, saved: Mapping[str, Any]) -> None:
        now = asdict(self.recipe)
        differing = {name: value for name, value in saved.items() if name in now and value != now[name]}
        for name in _FIXED:
            if name in differing and name in self._explicit:
                raise ValueError(
                    f"{VARIABLE} sets {name}={now[name]!r}, but the training to continue uses {differing[name]!r}; "
                    "leave it out, or start a new training without --c"
                )
        adopted = {name: v for name, v in differing.items() if name not in self._explicit and not self.was_initialized}
        for name, value in differing.items():
            used = value if name in adopted else now[name]
            self.print_to_log_file(f"Setting {name}: {value!r} in the checkpoint, {now[name]!r} now; using {used!r}")
        self._use(with_settings(self.recipe, adopted), adopted)
