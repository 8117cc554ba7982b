"""What a trainer's network costs on a plan, by tensors without data: seconds each, and no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from torch import nn

from nnunetv2_mamba.memory.estimate import inference_memory, training_memory
from nnunetv2_mamba.nnunet.network_building import build_network
from nnunetv2_mamba.ops.flops import flop_counter

from ..text import short_reason
from .plan import Plan

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


@dataclass(frozen=True)
class Cost:
    """Of one trainer on one plan.

    Attributes:
        parameters: of the network as it is trained, with all heads.
        flops: of a forward pass of one patch, as in prediction (see ``ops.flops``).
        training_bytes: peak of a training step at the plan's batch size (see ``memory.estimate``).
    """

    parameters: int
    flops: int
    training_bytes: int


class Costs:
    """Costs on a plan; trainers that build the same network are traced once."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self._known: dict[tuple, Cost | str] = {}

    def of(self, trainer: type[nnUNetTrainer]) -> Cost | str:
        """Return the cost, or why there is none: the network does not take the plan."""
        build, recipe = trainer.build_network_architecture, getattr(trainer, "recipe", None)
        options = trainer.chosen_options() if hasattr(trainer, "chosen_options") else {}
        key = (
            getattr(build, "__func__", build),
            getattr(trainer, "network_class", None),
            repr(sorted(options.items())),
            "sgd" if recipe is None else recipe.optimizer,
            recipe is None or recipe.enable_deep_supervision,
        )
        if key not in self._known:
            self._known[key] = self._trace(trainer, *key[-2:])
        return self._known[key]

    def _trace(self, trainer: type[nnUNetTrainer], optimizer: str, deep_supervision: bool) -> Cost | str:
        manager = self.plan.plans.get_configuration(self.plan.configuration)
        channels = determine_num_input_channels(self.plan.plans, manager, self.plan.dataset_json)
        built: list[nn.Module] = []

        def build(deep_supervision: bool) -> nn.Module:
            built.append(build_network(trainer, self.plan.plans, manager, self.plan.dataset_json, deep_supervision))
            return built[-1]

        counter = flop_counter()
        try:
            training = training_memory(
                partial(build, deep_supervision), (manager.batch_size, channels, *manager.patch_size), optimizer
            )
            inference_memory(partial(build, False), (1, channels, *manager.patch_size), around=counter)
        except Exception as error:  # whatever any network may raise on a plan that is not for it
            return short_reason(error)
        trained, _ = built
        parameters = sum(parameter.numel() for parameter in trained.parameters())
        return Cost(parameters, counter.get_total_flops(), training.total)
