"""Running out of memory, explained: which plan it was, what a step is estimated to need, what to change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from nnunetv2.utilities.dataset_name_id_conversion import convert_dataset_name_to_id
from torch import nn

from nnunetv2_mamba.memory.estimate import GIB, training_memory, usable_bytes
from nnunetv2_mamba.ops.device_errors import ran_out_of_memory
from nnunetv2_mamba.text import times

from .settings import VARIABLE

if TYPE_CHECKING:
    from .guarded_trainer import GuardedTrainer

_GPUS = (80, 48, 40, 32, 24, 16, 12, 8, 6, 4)  # GiB, as sold


class OutOfMemoryError(torch.OutOfMemoryError):
    """A step needed more memory than there is; says what to change."""


@contextmanager
def out_of_memory_explained(explain: Callable[[], str]) -> Iterator[None]:
    """Turn the device's error inside this context into one that adds ``explain()``.

    Raises:
        OutOfMemoryError: from the device's error.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"out of memory; {explain()}") from error


def explanation(trainer: GuardedTrainer, shape: Sequence[int]) -> str:
    """Say what is trained, what it is estimated to need, and the next smaller setting.

    Args:
        shape: ``(batch, channels, *patch)`` of what goes through the network at once.
    """
    build = partial(
        trainer.build_network_architecture,
        trainer.plans_manager,
        trainer.configuration_manager,
        trainer.num_input_channels,
        trainer.label_manager.num_segmentation_heads,
        trainer.enable_deep_supervision,
    )
    plans, checkpointing = trainer.plans_manager, trainer.recipe.activation_checkpointing
    estimate = estimated_bytes(build, shape, trainer.recipe.optimizer, trainer.precision.dtype)
    size = "not known (too little memory to trace it)" if estimate is None else f"{estimate / GIB:.2f} GiB"
    return (
        f"{plans.plans_name} {trainer.configuration_name} trains patches of {times(shape[2:])} with "
        f"{shape[1]} channels, {shape[0]} at once; the estimate of a step "
        f"{'without activation checkpointing ' if checkpointing else ''}is {size}, besides what "
        "the device's libraries and other processes take; "
        + advice(
            estimate,
            convert_dataset_name_to_id(plans.dataset_name),
            trainer.network_name,
            checkpointing,
            _options_of_plans(trainer),
        )
    )


def _options_of_plans(trainer: GuardedTrainer) -> dict[str, Any]:
    """Return the options of the network that its plans say, and not the trainer: those of ``plan --option``. Widths are
    one where they are not the network's own."""
    network, plan = trainer.bare_network(), trainer.configuration_manager
    if not plan.network_arch_class_name.endswith(f".{type(network).__name__}"):
        return {}
    names = set(type(network).plain_option_names()) - trainer.chosen_options().keys()
    widths = plan.network_arch_init_kwargs["features_per_stage"]
    if list(widths) != type(network).default_features(len(widths)):
        names.add("features_per_stage")
    return {name: value for name, value in plan.network_arch_init_kwargs.items() if name in names}


def estimated_bytes(
    build: Callable[[], nn.Module], shape: Sequence[int], optimizer: str, autocast: torch.dtype | None
) -> int | None:
    """Return ``training_memory``'s total; None where there is too little memory left to trace it."""
    try:
        return training_memory(build, shape, optimizer, autocast).total
    except (RuntimeError, MemoryError):
        return None


def advice(
    estimate: int | None,
    dataset_id: int,
    network_name: str | None,
    checkpointing: bool,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Name the next smaller settings than those of a step that needs ``estimate`` bytes.

    Args:
        estimate: None if unknown.
        dataset_id, network_name: for ``nnunetv2_mamba plan``; no name for a network that it does not know.
        checkpointing: activation checkpointing is on already.
        options: of the network, without which the plans would be of another one.
    """
    remedies = [] if checkpointing else [f"activation_checkpointing=true in {VARIABLE}"]
    smaller = next((gpu for gpu in _GPUS if estimate is not None and usable_bytes(gpu) < estimate), None)
    if network_name is not None and (estimate is None or smaller is not None):
        size = smaller or "GIB"
        command = f"nnunetv2_mamba plan -d {dataset_id} --network {network_name} --gpu-memory {size}"
        for name, value in options.items():
            command += f" --option {name}={value if isinstance(value, str) else json.dumps(value, separators=',:')}"
        plans = "the plans that it names" if options else f"-p nnUNet{network_name}{size}GPlans"
        if not all(isinstance(value, str | int) for value in options.values()):  # of others no name is made
            command, plans = f"{command} --plans-name NAME", "-p NAME"
        remedies.append(f"plans for less memory ({command}, then train with {plans})")
    else:
        remedies.append("a smaller batch_size or patch_size in the plan")
    return "the next smaller setting is " + ", or ".join(remedies)
