"""The network of a trained model, built and loaded as nnU-Net does, from files that are read as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor, nn

from nnunetv2_mamba.architectures.released_weights.state import misfit

from ..files import read_json_object
from ..text import short_reason
from ..untrusted_plans import check_untrusted_plans
from .model_checks import channels_of, check_configuration, check_dataset, check_mirroring
from .model_files import read_checkpoint


class LoadedModel(NamedTuple):
    """What ``manual_initialization`` of nnU-Net's predictor takes, in its order.

    Attributes:
        network: with the weights of the first fold.
        weights: of every fold.
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
        return len(channels_of(self.dataset))


def load_model(folder: Path, folds: Sequence[str], checkpoint: str, name: object = None) -> LoadedModel:
    """Do what ``initialize_from_trained_model_folder`` of nnU-Net's predictor does, for a model of anybody's.

    nnU-Net unpickles checkpoints with the objects in them and calls what the plans name as a network.

    Args:
        folder: the model's, as of ``copy_for_inference``.
        folds: whose weights are loaded.
        checkpoint: name of the file in the folders ``fold_*``.
        name: of the model in messages; ``folder`` where None.

    Raises:
        OSError, ValueError, pickle.UnpicklingError: for files that are missing or not what they should be; the message
            names the file.
    """
    dataset, plans = (read_json_object(folder / file) for file in ("dataset.json", "plans.json"))
    name = folder if name is None else name
    check_dataset(dataset, f"{name}/dataset.json")
    check_untrusted_plans(plans, f"{name}/plans.json")
    contents = {
        f"{name}/fold_{fold}/{checkpoint}": read_checkpoint(folder / f"fold_{fold}" / checkpoint) for fold in folds
    }
    first_file, first = next(iter(contents.items()))
    trainer, configuration_name = first["trainer_name"], first["init_args"]["configuration"]
    patch_size = check_configuration(configuration_name, plans, dataset, f"{name}/plans.json")
    mirroring = first["inference_allowed_mirroring_axes"]
    check_mirroring(mirroring, patch_size, first_file)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(configuration_name)
    try:
        network = build_network(trainer, manager, configuration, dataset)
    except Exception as error:  # a network's constructor may raise anything
        reason = short_reason(error, 300)
        raise ValueError(f"{name}/plans.json: the network of {trainer} cannot be built: {reason}") from error
    for file, content in reversed(contents.items()):  # those of the first last
        _load_weights(network, content["network_weights"], file)
    weights = [content["network_weights"] for content in contents.values()]
    return LoadedModel(network, manager, configuration, weights, dataset, trainer, mirroring)


def build_network(
    trainer: str, plans: PlansManager, configuration: ConfigurationManager, dataset: dict[str, Any]
) -> nn.Module:
    """The network that a trainer predicts with; raises what the network's constructor raises."""
    return recursive_find_trainer_class_by_name(trainer).build_network_architecture(
        plans,
        configuration,
        len(channels_of(dataset)),
        plans.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    )


def _load_weights(network: nn.Module, weights: dict[str, Tensor], file: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # it lists all keys
        reason = misfit(network, weights) or " ".join(str(error).split())[:300]
        raise ValueError(f"{file}: the weights do not fit the network of the plans: {reason}") from error
