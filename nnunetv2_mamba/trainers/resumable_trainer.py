"""A training that is continued as it was begun: its checkpoints hold the settings, and what it is computed with."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_mamba.nnunet.checkpoint import checkpoint_content, load_own_checkpoint, restore
from nnunetv2_mamba.nnunet.dataset_description import changed_meaning, renamed
from nnunetv2_mamba.nnunet.planned_configuration import configuration_with_preprocessing

from .compilation import is_compiled
from .computing_environment import ComputingEnvironment, computing_environment
from .guarded_trainer import GuardedTrainer
from .recipe import Recipe
from .settings import VARIABLE, with_settings

_SETTINGS_KEY = "nnunetv2_mamba_settings"
_ENVIRONMENT_KEY = "nnunetv2_mamba_environment"


class ResumableTrainer(GuardedTrainer):
    """Writes checkpoints with the settings, with which ``--c`` continues, and with what the training is computed with;
    both are echoed into the log.

    Attributes:
        FIXED: settings that a checkpoint's tensors depend on.
        environment: what the training is computed with, once it is initialised.
        continued: whether its state comes from a checkpoint.
    """

    FIXED: ClassVar[tuple[str, ...]] = ("optimizer", "enable_deep_supervision")

    @wraps(nnUNetTrainer.__init__)  # nnU-Net reads the names of the arguments
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.environment: ComputingEnvironment = {}
        self.continued = False

    def initialize(self) -> None:
        super().initialize()
        self._describe_environment()

    def on_train_start(self) -> None:
        super().on_train_start()
        settings = _listed(asdict(self.recipe), self.explicit)
        self.print_to_log_file(f"Settings, which {VARIABLE} can change:", settings, add_timestamp=False)
        self.print_to_log_file("Computed with:", _listed(self.environment), add_timestamp=False)

    def _describe_environment(self) -> None:
        network = self.bare_network()
        compiled = is_compiled(self.network)
        self.environment = computing_environment(self.device, self.precision, network, compiled)

    def stop_compiling(self, reason: str) -> None:
        super().stop_compiling(reason)
        self._describe_environment()

    def checkpoint_content(self) -> dict[str, Any]:
        """Return what a checkpoint holds: nnU-Net's keys, the settings, and what it was computed with."""
        return {
            **checkpoint_content(self, self.bare_network()),
            _SETTINGS_KEY: asdict(self.recipe),
            _ENVIRONMENT_KEY: self.environment,
        }

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint that nnU-Net reads."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # writes none, and says so
            return
        with Path(filename).open("wb") as file:
            torch.save(self.checkpoint_content(), file)

    def load_checkpoint(self, checkpoint: dict | str) -> None:
        """Continue from a checkpoint with the settings it was trained with, except those that the user sets now.

        Raises:
            ValueError: if the file is damaged, if the labels or the order of the channels have changed since, or if the
                user sets another optimiser or deep supervision (``FIXED``), whose tensors the checkpoint has not.
        """
        content = load_own_checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
        self._compare_dataset(content["init_args"].get("dataset_json"))
        self.continued = True
        self._adopt_settings(content.get(_SETTINGS_KEY, {}))
        if not self.was_initialized:
            self.initialize()
        for name, values in differences(content.get(_ENVIRONMENT_KEY, {}), self.environment).items():
            self.print_to_log_file(f"Computed with {name}: {values}")
        plans = content["init_args"].get("plans", {}), self.plans_manager.plans
        planned = (configuration_with_preprocessing(each, self.configuration_name) for each in plans)
        for name, values in differences(*planned).items():
            self.print_to_log_file(f"WARNING: the plans have changed. {name}: {values}")
        self.restore(content)

    def _compare_dataset(self, trained: Mapping[str, Any] | None) -> None:
        if trained is None:
            return
        if changed := changed_meaning(trained, self.dataset_json):
            raise ValueError(
                f"dataset.json has changed since the training to continue began: {changed}; change it back, with the "
                "label maps and preprocessed data, or train all folds anew, without --c"
            )
        if names := renamed(trained, self.dataset_json):
            self.print_to_log_file(f"WARNING: names in dataset.json have changed: {names}")

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take the state out of a checkpoint's content; the trainer is initialised."""
        restore(self, self.bare_network(), content)
        mirroring = self.recipe.mirroring
        if content.get(_SETTINGS_KEY, {}).get("mirroring", mirroring) != mirroring:  # the axes are of the other setting
            self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()  # not called by --val, which needs them

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


def settings_to_adopt(
    recipe: Recipe, saved: Mapping[str, Any], explicit: Collection[str], fixed: Sequence[str]
) -> dict[str, Any]:
    """Return the checkpoint's settings that replace those of ``recipe``: all that differ, but for the user's own.

    Args:
        saved: the settings of the checkpoint.
        explicit: the names that the user sets.
        fixed: the names that a checkpoint's tensors depend on.

    Raises:
        ValueError: if the user sets one of ``fixed`` to another value.
    """
    now = asdict(recipe)
    differing = {name: value for name, value in saved.items() if name in now and value != now[name]}
    for name in fixed:
        if name in differing and name in explicit:
            raise ValueError(
                f"{VARIABLE} sets {name}={now[name]!r}, but the training to continue uses {differing[name]!r}; "
                "leave it out, or start a new training without --c"
            )
    adopted = {name: value for name, value in differing.items() if name not in explicit}
    with_settings(recipe, adopted)  # they fit together
    return adopted


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Return both values in words for each entry of ``saved`` that is another one ``now``."""
    return {
        name: f"{value!r} in the checkpoint, {now[name]!r} now"
        for name, value in saved.items()
        if name in now and value != now[name]
    }


def _listed(values: Mapping[str, Any], explicit: Collection[str] = ()) -> str:
    """Return a line each for the training log; those that the user set say so."""
    lines = (f"  {name} = {value!r}{'  (set by you)' if name in explicit else ''}" for name, value in values.items())
    return "\n" + "\n".join(lines)
