"""The network of a trained model, built and loaded as nnU-Net does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunetv2_mamba.architectures.released_weights.state import misfit

from ..nnunet import network_building
from ..nnunet.dataset_description import channels_of
from ..text import short_reason
from .model_content import ModelContent


class LoadedModel(NamedTuple):
    """What ``manual_initialization`` of nnU-Net's predictor takes, in its order.

    Attributes:
        network: has the weights of the first fold.
        weights: those of every fold.
    """

    network: nn.Module
    plans: PlansManager
    configuration: ConfigurationManager
    weights: list[dict[str, Tensor]]
    dataset: dict[str, Any]
    trainer: str
    mirroring_axes: Sequence[int] | None

    @property
    def n_channels(self) -> int:
        """Of the images."""
        return len(channels_of(self.dataset))

    @property
    def n_inputs(self) -> int:
        """Channels of the network: those of the images and, in a cascade, one for each label of the stage before."""
        return determine_num_input_channels(self.plans, self.configuration, self.dataset)


def load_model(model: ModelContent) -> LoadedModel:
    """Build the network and load the weights, as ``initialize_from_trained_model_folder`` of nnU-Net's predictor does.

    Raises:
        ValueError: for a network that cannot be built, or weights that do not fit it; the message names the file.
    """
    plans = PlansManager(model.plans)
    configuration = plans.get_configuration(model.configuration)
    try:
        network = build_network(model.trainer, plans, configuration, model.dataset)
    except Exception as error:  # a network's constructor may raise anything
        reason = short_reason(error, 300)
        raise ValueError(
            f"{model.name}/plans.json: the network of {model.trainer} cannot be built: {reason}"
        ) from error
    for file, content in reversed(model.checkpoints.items()):  # those of the first last
        _load_weights(network, content["network_weights"], f"{model.name}/{file}")
    weights = [content["network_weights"] for content in model.checkpoints.values()]
    # None for an empty list, of which nnU-Net would take the largest axis
    mirroring = next(iter(model.checkpoints.values()))["inference_allowed_mirroring_axes"] or None
    return LoadedModel(network, plans, configuration, weights, model.dataset, model.trainer, mirroring)


def build_network(
    trainer: str, plans: PlansManager, configuration: ConfigurationManager, dataset: dict[str, Any]
) -> nn.Module:
    """The network that a trainer predicts with; raises what the network's constructor raises."""
    found = recursive_find_trainer_class_by_name(trainer)
    return network_building.build_network(found, plans, configuration, dataset, deep_supervision=False)


def _load_weights(network: nn.Module, weights: dict[str, Tensor], file: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # it lists all keys
        reason = misfit(network, weights) or " ".join(str(error).split())[:300]
        raise ValueError(f"{file}: the weights do not fit the network of the plans: {reason}") from error
