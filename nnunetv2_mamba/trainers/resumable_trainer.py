"""A training that can be stopped at any moment and continued: signals, checkpoints, settings, environment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from .checkpoint import load_own_checkpoint, remove_unfinished, save_atomically
from .compilation import is_compiled
from .environment import Environment, environment
from .preemption import TerminationRequest
from .resume import differences, restore, settings_to_adopt
from .settings import VARIABLE, with_settings
from .step_trainer import StepTrainer

_SETTINGS_KEY = "nnunetv2_mamba_settings"
_ENVIRONMENT_KEY = "nnunetv2_mamba_environment"


class ResumableTrainer(StepTrainer):
    """Writes checkpoints that a killed process never leaves half-written, and one more on a cluster's signal.

    They hold the settings, with which ``--c`` continues, and what the training is computed with; both are echoed into
    the log.

    Attributes:
        FIXED: settings that a checkpoint's tensors depend on.
        environment: what the training is computed with, once it is initialised.
    """

    FIXED: ClassVar[tuple[str, ...]] = ("optimizer", "enable_deep_supervision")

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.environment: Environment = {}
        self._termination = TerminationRequest()

    def initialize(self) -> None:
        super().initialize()
        self._describe_environment()

    def on_train_start(self) -> None:
        super().on_train_start()
        settings = _listed(asdict(self.recipe), self.explicit)
        self.print_to_log_file(f"Settings, which {VARIABLE} can change:", settings, add_timestamp=False)
        self.print_to_log_file("Computed with:", _listed(self.environment), add_timestamp=False)
        if self.local_rank == 0:
            for path in remove_unfinished(Path(self.output_folder)):
                self.print_to_log_file(f"Removed {path.name}, which a killed process had not finished writing.")

    def _describe_environment(self) -> None:
        network = self.bare_network()
        self.environment = environment(self.device, self.precision.name, network, is_compiled(self.network))

    def stop_compiling(self, reason: str) -> None:
        super().stop_compiling(reason)
        self._describe_environment()

    # stop

    def run_training(self) -> None:
        """nnU-Net's loop. When a signal asks to stop (see ``preemption``) it writes ``checkpoint_latest.pth`` and exits
        with status 128 + the signal's number; ``--c`` then repeats the epoch that was under way, with the weights as
        they were."""
        self._termination.obeyed_by(super().run_training, self._save_for_continuation)

    def _save_for_continuation(self, signal_name: str) -> None:
        if self.local_rank != 0 or self.disable_checkpointing or not self.was_initialized:
            return
        content = self.checkpoint_content()
        content["current_epoch"] = self.current_epoch
        content["logging"] = {key: values[: self.current_epoch] for key, values in content["logging"].items()}
        save_atomically(content, Path(self.output_folder) / "checkpoint_latest.pth")
        epoch = self.current_epoch
        self.print_to_log_file(f"{signal_name}: wrote checkpoint_latest.pth in epoch {epoch}; --c continues")

    def train_step(self, batch: dict) -> dict:
        """As the base class's.

        Raises:
            preemption.Preempted: if a signal came that asks to stop.
        """
        self._termination.check()
        return super().train_step(batch)

    def validation_step(self, batch: dict) -> dict:
        self._termination.check()
        return super().validation_step(batch)

    # checkpoints

    def checkpoint_content(self) -> dict[str, Any]:
        """What a checkpoint holds: nnU-Net's keys, the settings, and what it was computed with."""
        return {
            "network_weights": self.bare_network().state_dict(),
            "optimizer_state": self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": self.current_epoch + 1,
            "init_args": self.my_init_kwargs,
            "trainer_name": self.__class__.__name__,
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            _SETTINGS_KEY: asdict(self.recipe),
            _ENVIRONMENT_KEY: self.environment,
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
            ValueError: if the file is damaged, or if the user sets another optimiser or deep supervision (``FIXED``),
                whose tensors the checkpoint has not.
        """
        content = load_own_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
        self._adopt_settings(content.get(_SETTINGS_KEY, {}))
        if not self.was_initialized:
            self.initialize()
        for name, values in differences(content.get(_ENVIRONMENT_KEY, {}), self.environment).items():
            self.print_to_log_file(f"Computed with {name}: {values}")
        self.restore(content)

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take the state out of a checkpoint's content; the trainer is initialised."""
        restore(self, self.bare_network(), content)

    def _adopt_settings(self, saved: Mapping[str, Any]) -> None:
        if not self.was_initialized:
            self.take_attributes_over()
        adopted = settings_to_adopt(self.recipe, saved, self.explicit, self.FIXED)
        if self.was_initialized:  # too late
            adopted = {}
        for name, values in differences(saved, asdict(self.recipe)).items():
            used = adopted.get(name, getattr(self.recipe, name))
            self.print_to_log_file(f"Setting {name}: {values}; using {used!r}")
        self.apply_recipe(with_settings(self.recipe, adopted), adopted)


def _listed(values: Mapping[str, Any], explicit: Collection[str] = ()) -> str:
    """For the training log, a line each; those that the user set say so."""
    lines = (f"  {name} = {value!r}{'  (set by you)' if name in explicit else ''}" for name, value in values.items())
    return "\n" + "\n".join(lines)
